"""Calls that are repeated while the database or the store is away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential

from utils.exceptions import IngestionException

ATTEMPTS = 5
FIRST_PAUSE = 1.0  # seconds before the second attempt, twice as many before each further one
T = TypeVar("T")


async def retry_unavailable(work: Callable[[], Awaitable[T]]) -> T:
    """The result of `work`, tried ATTEMPTS times while it raises a retryable IngestionException. Raises the last one."""

    async def attempt() -> T:  # tenacity awaits only what it knows for a coroutine function, which a lambda is not
        return await work()

    retrying = AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, IngestionException) and error.retryable),
        stop=stop_after_attempt(ATTEMPTS), wait=wait_exponential(FIRST_PAUSE), reraise=True,
    )  # fmt: skip
    return await retrying(attempt)
