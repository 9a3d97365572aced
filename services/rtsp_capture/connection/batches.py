"""Packets come to the service's loop in batches: one turn of it takes what all connections have read.

Were each packet handed over by itself, 20 cameras at 25 pictures a second would wake the loop's thread 500 times a second,
each time to wait for the interpreter's lock. When a packet came is noted before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from utils.logger import get_logger

log = get_logger(__name__)

INTERVAL = 0.1  # seconds that a packet waits at most


class Batches:
    """One a process. On the service's loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
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
        for take in list(self._takers):
            try:
                take()
            except Exception:
                log.exception("packets_not_taken")
