"""Small helpers for asyncio tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def first_of(work: Awaitable[T], *others: Awaitable[object]) -> asyncio.Future[T]:
    """Runs all until the first one is done; cancels the others, and waits until they have ended.

    Returns the task of `work`: done, or cancelled because one of the others was first. The errors of the others are
    dropped. A coroutine becomes a task; a future that is given is cancelled too.
    """
    task = asyncio.ensure_future(work)
    tasks: list[asyncio.Future[object]] = [task, *(asyncio.ensure_future(other) for other in others)]  # type: ignore[list-item]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_all(*tasks)
    return task


async def cancel_all(*tasks: asyncio.Future[object]) -> None:
    """Cancels the tasks and waits until they have ended; their errors are dropped."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
