"""What copying many objects needs: some at once, again while the store is away, progress."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from utils.exceptions import IngestionException

CONCURRENCY = 4  # objects at once: the disk is the limit, not the store
TRIES = 5  # of one call while store or database is away
PAUSE = 1.0  # seconds before the second, twice as many before each further one
PROGRESS_INTERVAL = 5.0  # seconds
T = TypeVar("T")
Item = TypeVar("Item")


class Progress:
    """Reports `text()` every PROGRESS_INTERVAL seconds, however often it is called."""

    def __init__(self, report: Callable[[str], None], text: Callable[[], str]) -> None:
        self._report = report
        self._text = text
        self._reported = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._reported > PROGRESS_INTERVAL:
            self._reported = time.monotonic()
            self._report(self._text())


async def side_by_side(
    items: Iterable[Item], work: Callable[[Item], Awaitable[None]], concurrency: int, progress: Progress
) -> None:
    """`work` on each item, `concurrency` at once; the first error ends it and is raised as it is."""
    remaining = iter(items)

    async def worker() -> None:
        for item in remaining:
            await work(item)
            progress()

    workers = [asyncio.create_task(worker()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def again(work: Callable[[], Awaitable[T]]) -> T:
    """Tries again while store or database is away, TRIES times in all."""
    for attempt in range(1, TRIES + 1):
        try:
            return await work()
        except IngestionException as error:
            if not error.retryable or attempt == TRIES:
                raise
            await asyncio.sleep(PAUSE * 2 ** (attempt - 1))
    raise AssertionError("unreachable")
