"""RTP packets in the order of their numbers (RFC 3550, section 5.1 and appendix A.1): doubles dropped, gaps known. Pure."""

from __future__ import annotations

from typing import NamedTuple

from services.rtsp_capture.connection.rtsp.rtp import Rtp

_MAX_MISORDER = 1000  # numbers back that are a packet that comes late or twice; more, or as many ahead, is a new count
_MAX_DROPOUT = 3000
_new = tuple.__new__  # a NamedTuple's own constructor is Python


class Sequenced(NamedTuple):
    """A packet in its place."""

    packet: Rtp
    received: float
    lost: bool  # packets before it never came
    fresh: bool  # another source than before


class Sequencer:
    """Of one track. `depth`: packets that may wait for one that is missing."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._ssrc = -1
        self._next = -1
        self._odd = -1  # the number that would follow a packet which was far off
        self._waiting: dict[int, tuple[Rtp, float]] = {}
        self._lost = False

    def gap(self) -> None:
        """Data was lost before the next packet."""
        self._lost = True

    @property
    def next_one(self) -> tuple[int, int] | None:
        """The source and number of the packet that is to come next; None while others wait, or data was lost."""
        return None if self._waiting or self._lost else (self._ssrc, self._next)

    def took(self, following: int) -> None:
        """The packets before the one with this number were taken, in order, from `next_one` on."""
        self._next, self._odd = following, -1

    def follows(self, packet: Rtp) -> bool:
        """Takes the packet if it is the one that is to come next, as nearly all are; else `push` judges it."""
        if packet.sequence != self._next or packet.ssrc != self._ssrc or self._lost or self._waiting:
            return False
        self._next, self._odd = packet.sequence + 1 & 0xFFFF, -1
        return True

    def push(self, packet: Rtp, received: float) -> list[Sequenced]:
        """The packets that can be taken now."""
        if packet.ssrc != self._ssrc:
            fresh = self._ssrc >= 0
            self._ssrc, self._odd = packet.ssrc, -1
            self._waiting.clear()
            return [self._take(packet, received, fresh)]
        ahead = packet.sequence - self._next & 0xFFFF
        if ahead == 0:
            found = [self._take(packet, received)]
            return found + self._following() if self._waiting else found
        if ahead >= 0x10000 - _MAX_MISORDER:
            return []
        if ahead > _MAX_DROPOUT:
            if packet.sequence != self._odd:
                self._odd = packet.sequence + 1 & 0xFFFF
                return []
            self._waiting.clear()
            self._lost = True
            return [self._take(packet, received)]
        self._waiting[packet.sequence] = (packet, received)
        return self._skip() if len(self._waiting) > self._depth else []

    @property
    def waits(self) -> bool:
        """Whether packets wait for one that is missing."""
        return bool(self._waiting)

    def flush(self) -> list[Sequenced]:
        """What is missing will not come any more."""
        found: list[Sequenced] = []
        while self._waiting:
            found += self._skip()
        return found

    def _skip(self) -> list[Sequenced]:
        nearest = min(self._waiting, key=lambda number: number - self._next & 0xFFFF)
        self._next, self._lost = nearest, True
        return self._following()

    def _following(self) -> list[Sequenced]:
        found = []
        while (one := self._waiting.pop(self._next, None)) is not None:
            found.append(self._take(*one))
        return found

    def _take(self, packet: Rtp, received: float, fresh: bool = False) -> Sequenced:
        lost, self._lost = self._lost, False
        self._next, self._odd = packet.sequence + 1 & 0xFFFF, -1
        return _new(Sequenced, (packet, received, lost or fresh, fresh))
