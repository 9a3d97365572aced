"""The bytes of encoded video that all rings of a process may hold together."""

from __future__ import annotations

from typing import Protocol

from utils.metrics import RING_BYTES, RING_GOPS_EVICTED


class Evictable(Protocol):
    """A ring, as the budget sees it."""

    @property
    def seconds(self) -> float:
        """How far it reaches back, 0 when only its newest GOP is left."""

    def evict(self) -> None:
        """Gives up the oldest GOP; the newest stays."""


class RingBudget:
    """Takes the oldest GOP from the ring that reaches furthest back until the sum fits. On the event loop.

    So rings of high and low bit rates end at about the same length in seconds. Newest GOPs are never
    taken: with very many streams their sum may exceed the budget, and RTSP__RING_BYTES bounds each.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rings: dict[Evictable, None] = {}  # those that hold something; a set in a fixed order
        self._stuck = False  # nothing was left to take, and no ring has begun a GOP since
        self.bytes = 0

    def count(self, ring: Evictable, before: int, after: int) -> None:
        """A ring holds `after` bytes instead of `before`."""
        if before == 0 and after:
            self._rings[ring] = None
        elif after == 0:
            self._rings.pop(ring, None)
        self.bytes += after - before
        RING_BYTES.inc(after - before)

    def grew(self, *, began_gop: bool) -> None:
        """A ring took a packet in: makes room when the sum is too large."""
        self._stuck = self._stuck and not began_gop
        while self.bytes > self._max_bytes and not self._stuck:
            longest = max(self._rings, key=lambda ring: ring.seconds)
            if longest.seconds <= 0:
                self._stuck = True
                return
            longest.evict()
            RING_GOPS_EVICTED.inc()
