"""The queue for a pool's connections: who asked first has the next one.

A pool by itself gives up after a time, however well the server works: 300 requests at once on 30 connections were told that
the database was away. Here who waits gives up when no connection was given back for that time, or after LONGEST times as
long; a server that hangs is noticed as soon as before. And where the server takes no more connections, since other processes
have them, the work goes on by those that are open. On the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy.exc import TimeoutError as PoolTimeout

from utils.metrics import DB_WAITING

T = TypeVar("T")
LONGEST = 6.0  # times `patience`


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


class ConnectionQueue:
    """How many wait is bounded by those who ask: API__MAX_CONCURRENT_REQUESTS, and the jobs of a process."""

    def __init__(self, places: int, patience: float) -> None:
        """`places`: connections. `patience`: seconds."""
        self._left, self._patience = places, patience
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._opening = 0  # who waits in `opened`
        self._given_back = asyncio.Event()  # set as the next place is given back, while somebody does
        self._moved_at = 0.0  # when a place was last given back, by the loop's clock

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """A place for the block. Raises SQLAlchemy's TimeoutError."""
        await self.take()
        try:
            yield
        finally:
            self.give_back()

    async def take(self) -> None:
        """A place until `give_back`. Raises SQLAlchemy's TimeoutError."""
        if self._left > 0:
            self._left -= 1
        else:
            await self._wait()

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        began, turn = loop.time(), loop.create_future()
        self._waiting.append(turn)
        DB_WAITING.inc()
        try:
            while True:
                since = max(began, self._moved_at)
                until = min(since + self._patience, began + LONGEST * self._patience)
                if (left := until - loop.time()) <= 0:
                    raise PoolTimeout(f"no connection was free for {loop.time() - began:.0f} s")
                await asyncio.wait({turn}, timeout=left)
                if turn.done():
                    return
        except BaseException:
            if turn.done():  # it came just now
                self.give_back()
            else:
                self._waiting.remove(turn)
            raise
        finally:
            DB_WAITING.dec()

    async def opened(self, connect: Callable[[], Awaitable[T]], refused: Callable[[Exception], bool]) -> T:
        """What `connect` returns; where the server refuses another connection (`refused`), again as others of this pool are
        given back: those that are open carry the work. For the holder of a place. Raises what `connect` raised last."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LONGEST * self._patience
        self._opening += 1
        try:
            while True:
                given_back = self._given_back
                try:
                    return await connect()
                except Exception as error:
                    left = min(self._patience, until - loop.time())
                    if left <= 0 or not refused(error):
                        raise
                    if not await _set_within(given_back, left):
                        raise
        finally:
            self._opening -= 1

    def give_back(self) -> None:
        self._moved_at = asyncio.get_running_loop().time()
        if self._opening:
            self._given_back.set()
            self._given_back = asyncio.Event()
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._left += 1
