"""So much at a time, so much waits for it, and what comes next is refused at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from utils.exceptions import Overloaded


class ConcurrencyLimit:
    """At most `at_once` at a time, `waiting` wait. On the event loop. `refusal`: what the next one is told."""

    def __init__(self, at_once: int, waiting: int, refusal: str) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._may_wait, self._waiting = waiting, 0
        self._refusal = refusal

    @asynccontextmanager
    async def permit(self) -> AsyncIterator[None]:
        """A permit for the block. Raises Overloaded."""
        if self._waiting >= self._may_wait:
            raise Overloaded(self._refusal, retry_after=5)
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()
