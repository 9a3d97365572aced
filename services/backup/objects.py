"""What copying many objects needs: some at once, and progress."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

CONCURRENCY = 4  # objects at once: the disk is the limit, not the store
PROGRESS_INTERVAL = 5.0  # seconds
Item = TypeVar("Item")


class CopyProgress:
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
    items: Iterable[Item], work: Callable[[Item], Awaitable[None]], concurrency: int, progress: CopyProgress
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
