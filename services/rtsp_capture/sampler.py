"""Which picture fills which slot (CONTRACT, "The grid"). Pure: times come in as seconds since the epoch.

Slot k is due at grid_start + k / fps. A picture belongs to its nearest slot and may fill only that one. Of a slot's
pictures the nearest to its time wins; in `keyframe` only keyframes count, in `auto` keyframes come first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from models.values import Sampling
from services.rtsp_capture.packets import Picture

# A picture exactly half-way belongs to the later slot; this much is rounding of floating point, not time.
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Chosen:
    """A slot and the picture that fills it."""

    slot: int
    picture: Picture


class SlotSampler:
    """Chooses pictures for the slots first .. last - 1 (`last` None: no end)."""

    def __init__(self, grid_start: float, fps: float, sampling: Sampling, first: int, last: int | None) -> None:
        self.grid_start = grid_start
        self.fps = fps
        self._sampling = sampling
        self._last = last
        self.next_slot = first  # every slot below is decided
        self._best: Picture | None = None
        self._best_key: Picture | None = None
        self._newest = -math.inf  # latest capture time seen
        self._reorder = 0.0  # seconds by which later packets were shown earlier (B-frames)
        self._key_times: tuple[float, float] | None = None  # the last two keyframes
        self._segment: int | None = None

    def time_of(self, slot: int) -> float:
        return self.grid_start + slot / self.fps

    def slot_of(self, timestamp: float) -> int:
        """The slot nearest to a time; may lie outside the grid."""
        return math.floor((timestamp - self.grid_start) * self.fps + 0.5 + _EPSILON)

    @property
    def done(self) -> bool:
        return self._last is not None and self.next_slot >= self._last

    def due(self, now: float) -> int:
        """How many slots have come due at `now` (seconds since the epoch)."""
        count = max(0, math.floor((now - self.grid_start) * self.fps + _EPSILON) + 1)
        count = max(count, self.next_slot)
        return count if self._last is None else min(count, self._last)

    def offer(self, picture: Picture) -> tuple[list[Chosen], list[int]]:
        """Takes the next packet in decoding order; returns slots decided by it: (chosen, without a picture)."""
        packet = picture.packet
        if packet.segment != self._segment:
            self._segment, self._newest, self._reorder, self._key_times = packet.segment, -math.inf, 0.0, None
        if packet.timestamp < self._newest:
            self._reorder = max(self._reorder, self._newest - packet.timestamp)
        self._newest = max(self._newest, packet.timestamp)
        if packet.key:
            self._key_times = (self._key_times[1] if self._key_times else -math.inf, packet.timestamp)
        chosen, missed = self._decide()
        if not self.done and self.slot_of(packet.timestamp) == self.next_slot and picture.decodable:
            self._consider(picture)
            more, also = self._decide()
            chosen, missed = chosen + more, missed + also
        return chosen, missed

    def expire(self, now: float) -> tuple[list[Chosen], list[int]]:
        """Decides the slots whose half-way to the next lies before `now`: for streams that fell silent."""
        chosen: list[Chosen] = []
        missed: list[int] = []
        while not self.done and self.time_of(self.next_slot) + 0.5 / self.fps <= now:
            self._close(chosen, missed)
        return chosen, missed

    def _consider(self, picture: Picture) -> None:
        due = self.time_of(self.next_slot)

        def nearer(best: Picture | None) -> bool:
            return best is None or abs(picture.packet.timestamp - due) < abs(best.packet.timestamp - due)

        if picture.packet.key and nearer(self._best_key):
            self._best_key = picture
        if self._sampling is not Sampling.KEYFRAME and nearer(self._best):
            self._best = picture

    def _decide(self) -> tuple[list[Chosen], list[int]]:
        chosen: list[Chosen] = []
        missed: list[int] = []
        while not self.done and self._settled():
            self._close(chosen, missed)
        return chosen, missed

    def _settled(self) -> bool:
        """Whether no picture still to come can change the slot's choice."""
        due = self.time_of(self.next_slot)
        # Every picture with an earlier capture time than this has been seen.
        seen = self._newest - self._reorder
        end = due + 0.5 / self.fps
        if self._sampling is Sampling.EXACT:
            best, limit = self._best, end
        elif self._best_key is not None:
            best, limit = self._best_key, end
        elif self._sampling is Sampling.AUTO and self._best is not None and not self._key_expected(seen, end):
            best, limit = self._best, end
        else:
            return seen >= end - _EPSILON
        if best is None:
            return seen >= limit - _EPSILON
        return seen >= min(limit, due + abs(best.packet.timestamp - due)) - _EPSILON

    def _key_expected(self, seen: float, end: float) -> bool:
        """Whether the next keyframe, by the distance of the last two, may come before `end`."""
        if self._key_times is None or self._key_times[0] == -math.inf:
            return True
        distance = self._key_times[1] - self._key_times[0]
        following = self._key_times[1] + distance
        return following < end + distance * 0.1 or seen > following

    def _close(self, chosen: list[Chosen], missed: list[int]) -> None:
        best = self._best_key if self._sampling is not Sampling.EXACT and self._best_key is not None else self._best
        if best is None:
            missed.append(self.next_slot)
        else:
            chosen.append(Chosen(self.next_slot, best))
        self.next_slot += 1
        self._best = self._best_key = None
