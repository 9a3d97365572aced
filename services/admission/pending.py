"""How many captures wait. RTSP__MAX_PENDING bounds it; to count 10,000 rows for each new one takes longer than the rest."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable

_KNOWN_FOR = 1.0  # seconds
_NEAR = 100  # captures; so near to the limit each one is counted


class PendingCount:
    """Counted once a second, and what this process has added since. Other processes may add beyond the limit within that
    second, as two that count at the same moment may. Of one event loop; `clock` is monotonic seconds."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._known, self._counted_at = 0, float("-inf")
        self._counting = False

    async def at_limit(self, count: Callable[[int], Awaitable[int]]) -> bool:
        """`count`: of the captures that wait, no further than a limit. One count at a time, unless the limit is near or
        nothing is known yet: meanwhile the last one holds."""
        now = self._clock()
        near = self._known + _NEAR >= self._limit or math.isinf(self._counted_at)
        if near or (now - self._counted_at >= _KNOWN_FOR and not self._counting):
            self._counting = True
            try:
                self._known, self._counted_at = await count(self._limit), now
            finally:
                self._counting = False
        return self._known >= self._limit

    def added(self) -> None:
        self._known += 1
