"""What was made, kept in memory, the least recently asked-for forgotten first; what is in the making is made once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any


class KeptBytes:
    """At most `max_bytes`. On the event loop."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._done: OrderedDict[str, bytes] = OrderedDict()
        self._making: dict[str, asyncio.Task[bytes]] = {}

    async def get(self, key: str, make: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        """The bytes under `key`; made by `make`, whose errors are those of all who wait."""
        if (found := self._done.get(key)) is not None:
            self._done.move_to_end(key)
            return found
        task = self._making.get(key)
        if task is None:
            task = asyncio.create_task(make())
            self._making[key] = task
            task.add_done_callback(partial(self._made, key))
        return await asyncio.shield(task)

    def _made(self, key: str, task: asyncio.Task[bytes]) -> None:
        del self._making[key]
        if task.cancelled() or task.exception() is not None:
            return
        self._done[key] = task.result()
        self._bytes += len(task.result())
        while self._bytes > self._max_bytes:
            self._bytes -= len(self._done.popitem(last=False)[1])
