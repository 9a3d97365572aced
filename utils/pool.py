"""A bounded thread pool for calls that block: cv2, av, boto3, Pillow, files."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from utils.metrics import POOL_BUSY

P = ParamSpec("P")
T = TypeVar("T")


class WorkerPool:
    """`threads` threads and at most `max_waiting` calls in line: beyond that `run` waits before it queues.

    Belongs to one event loop; `run` is called from it, the function runs in a thread of the pool with the
    caller's context variables (so that log lines keep their request_id).
    """

    def __init__(self, name: str, threads: int, max_waiting: int = 1000) -> None:
        self.name = name
        self.threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._room = asyncio.Semaphore(threads + max_waiting)
        self._busy = POOL_BUSY.labels(pool=name)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result, or its exception. Cancelling stops the waiting, not a call that has begun."""
        async with self._room:
            self._busy.inc()
            try:
                context = contextvars.copy_context()
                call = partial(context.run, partial(function, *args, **kwargs))
                return await asyncio.get_running_loop().run_in_executor(self._executor, call)
            finally:
                self._busy.dec()

    async def close(self) -> None:
        """Waits for running calls, drops those that have not begun."""
        await asyncio.to_thread(self._executor.shutdown, True, cancel_futures=True)
