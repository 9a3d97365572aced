"""Room in a budget of memory, for which callers wait in order."""

from __future__ import annotations

import asyncio
from collections import deque

from utils.metrics import MEMORY_RESERVED, QUEUE_DEPTH


class RoomTimeout(Exception):
    """There was no room for as long as the caller would wait."""


class MemoryRoom:
    """`size` bytes; who came first is served first, so that a large one is not passed over for ever. On the event loop."""

    def __init__(self, name: str, size: int) -> None:
        self._size = self._left = size
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._reserved = MEMORY_RESERVED.labels(pool=name)
        self._waiting = QUEUE_DEPTH.labels(queue=f"{name}-memory")

    async def take(self, size: int, patience: float) -> None:
        """Waits for `size` bytes, which must not be more than there are. Raises RoomTimeout after `patience` seconds."""
        if size > self._size:
            raise ValueError("more than there is")
        if size == 0:
            return
        if not self._line and size <= self._left:
            self._change(-size)
            return
        entry = (size, asyncio.get_running_loop().create_future())
        self._line.append(entry)
        self._waiting.inc()
        try:
            await asyncio.wait_for(asyncio.shield(entry[1]), patience)
        except TimeoutError:
            self._abandon(entry)
            raise RoomTimeout from None
        except BaseException:
            self._abandon(entry)
            raise
        finally:
            self._waiting.dec()

    def give(self, size: int) -> None:
        """Gives back what was taken."""
        self._change(size)
        self._serve()

    def close(self) -> None:
        """Lets all who wait go on, as if there were room: they find their pool closed."""
        self._size = self._left = 1 << 62
        self._serve()

    def _abandon(self, entry: tuple[int, asyncio.Future[None]]) -> None:
        if entry[1].done():  # served in the very moment
            self.give(entry[0])
        else:
            self._line.remove(entry)
            self._serve()

    def _serve(self) -> None:
        while self._line and self._line[0][0] <= self._left:
            size, future = self._line.popleft()
            self._change(-size)
            future.set_result(None)

    def _change(self, size: int) -> None:
        self._left += size
        self._reserved.dec(size)
