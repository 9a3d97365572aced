"""RateLimiter: a batch passes at once, the next one when it is paid for."""

from __future__ import annotations

from utils.rate_limiter import RateLimiter


async def test_the_rate_holds_in_the_long_run() -> None:
    now, slept = 100.0, 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now, slept
        now, slept = now + seconds, slept + seconds

    pace = RateLimiter(50, lambda: now, sleep)
    await pace.acquire(200)
    assert slept == 0
    await pace.acquire(10)
    assert abs(slept - 4) < 1e-6
    now += 60  # what was not used is not saved up
    await pace.acquire(50)
    await pace.acquire(1)
    assert abs(slept - 5) < 1e-6
