"""What all connections have read is worked on together, in one turn of a loop: code and tables that a picture needs are
then in the processor's caches for all but the first (one picture by itself takes two to three times as long), and 20 cameras
at 25 pictures a second wake a thread 10 times a second instead of 500. When something came is noted before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from utils.logger import get_logger

log = get_logger(__name__)

INTERVAL = 0.1  # seconds that a packet waits at most


class Batches:
    """The turns of one loop; on that loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, done: Callable[[], None] = lambda: None) -> None:
        """`done` is called after each turn."""
        self._loop, self._done = loop, done
        self.under_way = False
        self._takers: dict[Callable[[], None], None] = {}  # a set in a fixed order
        self._timer: asyncio.TimerHandle | None = None

    def add(self, take: Callable[[], None]) -> None:
        """`take` is called INTERVAL apart from now on. What it raises is logged, and keeps no other one waiting."""
        self._takers[take] = None
        if self._timer is None:
            self._timer = self._loop.call_later(INTERVAL, self._turn)

    def remove(self, take: Callable[[], None]) -> None:
        """Does nothing for one that is not called."""
        self._takers.pop(take, None)
        if not self._takers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _turn(self) -> None:
        self._timer = self._loop.call_later(INTERVAL, self._turn)
        self.under_way = True
        for take in list(self._takers):
            try:
                take()
            except Exception:
                log.exception("packets_not_taken")
        self.under_way = False
        self._done()
