"""Work at a bounded rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class RateLimiter:
    """Lets at most `rate` things a second pass, in the long run; a batch passes at once and is paid for afterwards.

    `clock` is monotonic seconds. On one event loop.
    """

    def __init__(
        self,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._free_at = 0.0

    async def acquire(self, count: int) -> None:
        """Waits until what passed before is paid for, then lets `count` pass."""
        now = self._clock()
        if self._free_at > now:
            await self._sleep(self._free_at - now)
        self._free_at = max(now, self._free_at) + count / self._rate
