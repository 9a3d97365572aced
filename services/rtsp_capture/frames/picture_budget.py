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
    """A picture that the budget counts; `evict` tells its owner that it has no room any more."""

    size: int
    evict: Callable[[], None]


class PictureBudget:
    """Beyond `max_bytes` the pictures that have waited longest go; the newest is kept whatever its size.

    Those that are being stored at this moment, at most `puts`, are not taken: with a slow store every picture would
    be given up half-way, and none would ever arrive. On the event loop.
    """

    def __init__(self, max_bytes: int, puts: int) -> None:
        self._max_bytes = max_bytes
        self._turns = asyncio.Semaphore(puts)
        self._waiting: OrderedDict[Reservation, None] = OrderedDict()  # oldest first
        self._busy: set[Reservation] = set()
        self.bytes = 0

    @property
    def contended(self) -> bool:
        """Whether as many are being stored as may be: others wait for their turn."""
        return self._turns.locked()

    def hold(self, size: int, evict: Callable[[], None]) -> Reservation:
        """Counts a picture; the oldest make room for it."""
        held = Reservation(size, evict)
        self._waiting[held] = None
        self._count(size)
        while self.bytes > self._max_bytes and len(self._waiting) > 1:
            oldest, _ = self._waiting.popitem(last=False)
            self._count(-oldest.size)
            oldest.evict()
        return held

    def free(self, held: Reservation) -> None:
        """It is stored, or nobody wants it any more; one that was given up already changes nothing."""
        if held in self._busy or held in self._waiting:
            self._busy.discard(held)
            self._waiting.pop(held, None)
            self._count(-held.size)

    @asynccontextmanager
    async def turn(self, held: Reservation) -> AsyncIterator[None]:
        """While it is being stored; waits until fewer than `puts` are."""
        async with self._turns:
            self._waiting.pop(held, None)
            self._busy.add(held)
            try:
                yield
            finally:
                if held in self._busy:
                    self._busy.discard(held)
                    self._waiting[held] = None
                    self._waiting.move_to_end(held, last=False)

    def _count(self, change: int) -> None:
        self.bytes += change
        PICTURE_BYTES.inc(change)
