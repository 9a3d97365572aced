"""The bytes of encoded pictures that all captures of a process hold on their way into the object store."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from utils.metrics import PICTURE_BYTES


@dataclass(slots=True, eq=False)
class Reservation:
    """A picture that the budget counts; `evict` is called when there is no room for it any more."""

    size: int
    evict: Callable[[], None]


class PictureBudget:
    """Beyond `max_bytes` the pictures that have waited longest are evicted; the newest is kept whatever its size.

    Those that are being stored, at most `puts`, are not evicted: with a slow store every PUT would be abandoned
    half-way, and none would end. On the event loop.
    """

    def __init__(self, max_bytes: int, puts: int) -> None:
        self._max_bytes = max_bytes
        self._puts = asyncio.Semaphore(puts)
        self._waiting: OrderedDict[Reservation, None] = OrderedDict()  # oldest first
        self._busy: set[Reservation] = set()
        self.bytes = 0

    @property
    def contended(self) -> bool:
        """Whether as many are being stored as may be, so that others wait."""
        return self._puts.locked()

    def hold(self, size: int, evict: Callable[[], None]) -> Reservation:
        """Counts a picture; the oldest are evicted to make room for it."""
        reservation = Reservation(size, evict)
        self._waiting[reservation] = None
        self._count(size)
        while self.bytes > self._max_bytes and len(self._waiting) > 1:
            oldest, _ = self._waiting.popitem(last=False)
            self._count(-oldest.size)
            oldest.evict()
        return reservation

    def free(self, reservation: Reservation) -> None:
        """The picture is stored, or not needed any more. Does nothing for one that was evicted."""
        if reservation in self._busy or reservation in self._waiting:
            self._busy.discard(reservation)
            self._waiting.pop(reservation, None)
            self._count(-reservation.size)

    @asynccontextmanager
    async def storing(self, reservation: Reservation) -> AsyncIterator[None]:
        """While it is being stored; waits until fewer than `puts` are."""
        async with self._puts:
            self._waiting.pop(reservation, None)
            self._busy.add(reservation)
            try:
                yield
            finally:
                if reservation in self._busy:
                    self._busy.discard(reservation)
                    self._waiting[reservation] = None
                    self._waiting.move_to_end(reservation, last=False)

    def _count(self, change: int) -> None:
        self.bytes += change
        PICTURE_BYTES.inc(change)
