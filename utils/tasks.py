"""Small helpers for asyncio tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


async def first_of(work: Awaitable[T], *others: Awaitable[object]) -> asyncio.Future[T] | None:
    """Runs all until the first one is done; cancels the others, and waits until they have ended.

    Returns the task of `work` when it is done, None when only others are. Errors of those that were not first are dropped.
    A coroutine becomes a task; a future that is given is cancelled too.
    """
    task = asyncio.ensure_future(work)
    tasks: list[asyncio.Future[Any]] = [task, *(asyncio.ensure_future(other) for other in others)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return task if task.done() else None
    finally:
        await cancel_all(*tasks)


async def cancel_all(*tasks: asyncio.Future[Any]) -> None:
    """Cancels the tasks and waits until they have ended; their errors are dropped."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
