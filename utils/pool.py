"""A bounded thread pool for calls that block: cv2, av, boto3, Pillow, files."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

from utils.metrics import POOL_BUSY

P = ParamSpec("P")
T = TypeVar("T")


class WorkerPool:
    """`threads` threads. A call waits for a free one on the event loop, in order, and never in the executor's queue.

    There a cancelled call would stay, with all that it was given, until a thread comes to it; here it is gone at
    once. How many calls wait is for the callers to bound.

    Belongs to one event loop; `run` is called from it, the function runs in a thread of the pool with the
    caller's context variables (so that log lines keep their request_id).
    """

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self.threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = asyncio.Semaphore(threads)
        self._busy = POOL_BUSY.labels(pool=name)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result, or its exception. Cancelling stops the waiting, not a call that has begun."""
        future, waiter = await self._begin(partial(function, *args, **kwargs))
        try:
            return await waiter
        except asyncio.CancelledError:
            future.cancel()  # where it has not begun
            raise

    async def run_to_end(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, but who is cancelled waits until a call that has begun has ended.

        For a call that works on something which a lock guards: a thread may not go on with it once the lock is free.
        """
        future, waiter = await self._begin(partial(function, *args, **kwargs))
        try:
            return await asyncio.shield(waiter)
        except asyncio.CancelledError:
            future.cancel()
            while not waiter.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({waiter})
            if not waiter.cancelled():
                waiter.exception()  # marks it as retrieved
            raise

    async def _begin(self, function: Callable[[], T]) -> tuple[Future[T], asyncio.Future[T]]:
        """A free thread has the call: (the thread's side, what the loop waits for)."""
        self._busy.inc()
        try:
            await self._free.acquire()
        except asyncio.CancelledError:
            self._busy.dec()
            raise
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[T] = loop.create_future()
        try:
            future = self._executor.submit(contextvars.copy_context().run, function)
        except RuntimeError:  # closed
            self._ended()
            raise

        def ended(done: Future[T]) -> None:  # in the thread: one wake-up of the loop for result and free thread
            try:
                loop.call_soon_threadsafe(self._deliver, done, waiter)
            except RuntimeError:  # the loop is closed: nobody waits any more
                pass

        future.add_done_callback(ended)
        return future, waiter

    def _deliver(self, done: Future[T], waiter: asyncio.Future[T]) -> None:
        self._ended()
        if waiter.done():  # cancelled
            return
        if done.cancelled():
            waiter.cancel()
        elif (error := done.exception()) is not None:
            waiter.set_exception(error)
        else:
            waiter.set_result(done.result())

    def _ended(self) -> None:
        self._busy.dec()
        self._free.release()

    async def close(self) -> None:
        """Waits for running calls."""
        await asyncio.to_thread(self._executor.shutdown, True, cancel_futures=True)
