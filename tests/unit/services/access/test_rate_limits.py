"""Rates and wrong credentials, counted in memory. By Redis: tests/integration/access/test_redis.py."""

from __future__ import annotations

import pytest

from config import LimitsSettings
from services.access.rate_limits import RateLimits
from utils.exceptions import RateLimited


async def test_without_a_limit_nothing_is_counted() -> None:
    rates = RateLimits(LimitsSettings())
    assert {await rates.request("read", "a") for _ in range(1000)} == {None}
    assert await rates.upload(10**12, "a") is None


async def test_a_rate_holds_for_each_caller_by_itself() -> None:
    rates = RateLimits(LimitsSettings(READ="3/minute", WRITE="1/minute"))
    left = [quota.remaining for _ in range(3) if (quota := await rates.request("read", "a")) is not None]
    assert left == [2, 1, 0]
    with pytest.raises(RateLimited) as refused:
        await rates.request("read", "a")
    quota = refused.value.details["quota"]
    assert quota.headers()["RateLimit-Policy"] == '"read";q=3;w=60'
    assert quota.headers()["RateLimit"].startswith('"read";r=0;t=')
    assert 0 < (refused.value.retry_after or 0) <= 60
    assert await rates.request("read", "b") is not None
    assert await rates.request("write", "a") is not None


async def test_bytes_that_are_refused_are_not_counted() -> None:
    rates = RateLimits(LimitsSettings(UPLOAD_BYTES="1000/minute"))
    for _ in range(3):
        with pytest.raises(RateLimited):
            await rates.upload(1001, "a")
    quota = await rates.upload(1000, "a")
    assert quota is not None
    assert quota.remaining == 0
    with pytest.raises(RateLimited):
        await rates.upload(1, "a")


async def test_wrong_credentials_are_counted_by_address() -> None:
    rates = RateLimits(LimitsSettings(FAILED_LOGINS="2/minute"))
    await rates.failed("10.0.0.1")
    await rates.failed("10.0.0.1")
    with pytest.raises(RateLimited):
        await rates.failed("10.0.0.1")
    await rates.failed("10.0.0.2")
