"""Which picture fills which slot. Pure: times come in as seconds since the epoch.

Slot k is due at grid_start + k / fps. A picture belongs to its nearest slot and may fill only that one. Of a slot's
pictures the nearest to its time wins; in `keyframe` only keyframes count, in `auto` keyframes come first.
Where the sharpest of several is wanted (`Choice`), a slot has candidates: its nearest pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from models.values import Sampling
from services.rtsp_capture.media.gop_buffer import Picture

# A picture exactly half-way belongs to the later slot; this much is rounding of floating point, not time.
_EPSILON = 1e-6
# Packets of a connection after which it is known how far the order of decoding differs from that of showing.
_MIN_ORDER_PACKETS = 5
_MAX_REORDER_SECONDS = 1.0  # of stream time; more is a jump


@dataclass(frozen=True, slots=True)
class Chosen:
    """A slot and the picture that fills it."""

    slot: int
    picture: Picture  # the nearest
    candidates: tuple[Picture, ...] = ()  # it and others near the slot's time, of which the sharpest is wanted


@dataclass(frozen=True, slots=True)
class Choice:
    """That of several pictures the sharpest is wanted."""

    of: int  # pictures, the nearest ones
    within: float  # seconds from the slot's time

    def candidates(self, pictures: Iterable[Picture], at: float) -> tuple[Picture, ...]:
        """The nearest to `at`, in the order of capture."""
        within = [one for one in pictures if abs(one.timestamp - at) <= self.within + _EPSILON]
        nearest = sorted(within, key=lambda one: abs(one.timestamp - at))[: self.of]
        return tuple(sorted(nearest, key=lambda one: one.timestamp))


class SlotSampler:
    """Chooses pictures for the slots first .. last - 1 (`last` None: no end)."""

    def __init__(
        self, grid_start: float, fps: float, sampling: Sampling, first: int, last: int | None, choice: Choice | None = None
    ) -> None:
        """`choice`: in `auto` every picture may then be the sharpest, as in `exact`."""
        self._choice = choice
        if choice is not None and sampling is Sampling.AUTO:
            sampling = Sampling.EXACT
        self._near: dict[int, tuple[Picture, ...]] = {}  # the candidates of each undecided slot
        self.grid_start = grid_start
        self.fps = fps
        self._sampling = sampling
        self._last = last
        self.next_slot = first  # every slot below is decided
        self._pictures: dict[int, Picture] = {}  # the nearest of each undecided slot
        self._keys: dict[int, Picture] = {}  # the nearest keyframe of each
        self._segment: int | None = None
        self._packets = 0  # of this segment
        self._newest = self._newest_pts = -math.inf  # of the picture shown last
        self._reorder = 0.0  # seconds by which later packets were shown earlier (B-frames)

    def time_of(self, slot: int) -> float:
        return self.grid_start + slot / self.fps

    def slot_of(self, timestamp: float) -> int:
        """The slot nearest to a time; may lie outside the grid."""
        return math.floor((timestamp - self.grid_start) * self.fps + 0.5 + _EPSILON)

    @property
    def has_picture(self) -> bool:
        """Whether the next slot has one, and waits for others that may be nearer, or sharper."""
        return self.next_slot in self._pictures or self.next_slot in self._keys

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
            self._segment, self._packets = packet.segment, 0
            self._newest, self._newest_pts, self._reorder = -math.inf, -math.inf, 0.0
        self._packets += 1
        if 0 < self._newest_pts - packet.pts < _MAX_REORDER_SECONDS:
            self._reorder = max(self._reorder, self._newest_pts - packet.pts + _EPSILON)
        else:
            self._newest, self._newest_pts = picture.timestamp, packet.pts
        slot = self.slot_of(picture.timestamp)
        if slot >= self.next_slot and picture.usable:
            if self._sampling is not Sampling.KEYFRAME:
                self._consider(self._pictures, slot, picture)
            if self._sampling is not Sampling.EXACT and packet.key:
                self._consider(self._keys, slot, picture)
        chosen: list[Chosen] = []
        missed: list[int] = []
        while not self.done and self._settled():
            self._close(chosen, missed)
        return chosen, missed

    def expire(self, now: float) -> tuple[list[Chosen], list[int]]:
        """Decides the slots whose half-way to the next lies before `now`: for streams that fell silent."""
        chosen: list[Chosen] = []
        missed: list[int] = []
        while not self.done and self.time_of(self.next_slot) + 0.5 / self.fps <= now:
            self._close(chosen, missed)
        return chosen, missed

    def _consider(self, best: dict[int, Picture], slot: int, picture: Picture) -> None:
        due = self.time_of(slot)
        if self._choice is not None:
            self._near[slot] = self._choice.candidates((*self._near.get(slot, ()), picture), due)
        nearest = best.get(slot)
        if nearest is None or abs(picture.timestamp - due) < abs(nearest.timestamp - due):
            best[slot] = picture

    def _settled(self) -> bool:
        """Whether no picture still to come can change the next slot's choice."""
        best = (self._pictures if self._sampling is Sampling.EXACT else self._keys).get(self.next_slot)
        # Every picture with an earlier capture time than this has been seen.
        seen = self._newest - self._reorder if self._packets >= _MIN_ORDER_PACKETS else -math.inf
        if best is None:
            return seen > -math.inf and self.slot_of(seen) > self.next_slot
        due = self.time_of(self.next_slot)
        distance = abs(best.timestamp - due)
        if self._choice is not None:
            near = self._near.get(self.next_slot, ())
            enough = len(near) >= self._choice.of
            farthest = max(abs(one.timestamp - due) for one in near) if enough else self._choice.within
            return seen >= due + max(distance, farthest)
        return distance <= _EPSILON or seen >= due + distance

    def _close(self, chosen: list[Chosen], missed: list[int]) -> None:
        slot = self.next_slot
        picture, key = self._pictures.pop(slot, None), self._keys.pop(slot, None)
        if (best := key or picture) is None:
            missed.append(slot)
        else:
            near = self._near.get(slot, ())
            chosen.append(Chosen(slot, best, near if len(near) > 1 else ()))
        self._near.pop(slot, None)
        self.next_slot += 1
