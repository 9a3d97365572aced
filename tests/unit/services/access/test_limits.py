"""Rates, wrong credentials and shares."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from config import LimitsSettings
from services.access.limits import RateLimits, Shares
from utils.exceptions import RateLimited


def test_without_a_limit_nothing_is_counted() -> None:
    rates = RateLimits(LimitsSettings())
    assert all(rates.request("read", "a") is None for _ in range(1000))
    assert rates.upload(10**12, "a") is None


def test_a_rate_holds_for_each_caller_by_itself() -> None:
    rates = RateLimits(LimitsSettings(READ="3/minute", WRITE="1/minute"))
    left = [quota.remaining for _ in range(3) if (quota := rates.request("read", "a")) is not None]
    assert left == [2, 1, 0]
    with pytest.raises(RateLimited) as refused:
        rates.request("read", "a")
    quota = refused.value.details["quota"]
    assert quota.headers()["RateLimit-Policy"] == '"read";q=3;w=60'
    assert quota.headers()["RateLimit"].startswith('"read";r=0;t=')
    assert 0 < (refused.value.retry_after or 0) <= 60
    assert rates.request("read", "b") is not None
    assert rates.request("write", "a") is not None


def test_bytes_that_are_refused_are_not_counted() -> None:
    rates = RateLimits(LimitsSettings(UPLOAD_BYTES="1000/minute"))
    for _ in range(3):
        with pytest.raises(RateLimited):
            rates.upload(1001, "a")
    quota = rates.upload(1000, "a")
    assert quota is not None
    assert quota.remaining == 0
    with pytest.raises(RateLimited):
        rates.upload(1, "a")


def test_wrong_credentials_are_counted_by_address() -> None:
    rates = RateLimits(LimitsSettings(FAILED_LOGINS="2/minute"))
    rates.failed("10.0.0.1")
    rates.failed("10.0.0.1")
    with pytest.raises(RateLimited):
        rates.failed("10.0.0.1")
    rates.failed("10.0.0.2")


def test_one_caller_holds_its_share_and_gives_it_back() -> None:
    shares = Shares(0.5)
    with ExitStack() as held:
        for _ in range(5):
            held.enter_context(shares.hold("readers", "a", 10))
        with pytest.raises(RateLimited), shares.hold("readers", "a", 10):
            pass
        with shares.hold("readers", "b", 10), shares.hold("waits", "a", 10):
            pass
    with shares.hold("readers", "a", 10):
        pass


def test_the_whole_is_refused_by_the_bound_itself() -> None:
    """Whose answer is another one: the service is busy, not this caller too greedy."""
    shares = Shares(1.0)
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(shares.hold("probes", "a", 2))


def test_a_share_is_at_least_one_and_one_alone_is_taken() -> None:
    shares = Shares(0.01)
    with shares.hold("probes", "a", 4), pytest.raises(RateLimited), shares.hold("probes", "a", 4):
        pass
    with shares.hold("bytes", "a", 100, amount=1000):
        pass


def test_a_share_grows_and_is_given_back_whole() -> None:
    shares = Shares(0.5)
    with shares.hold("bytes", "a", 100, amount=0) as one, shares.hold("bytes", "a", 100, amount=0) as two:
        one.grow(30)
        two.grow(20)
        with pytest.raises(RateLimited):
            one.grow(1)
    with shares.hold("bytes", "a", 100, amount=0) as alone:
        alone.grow(1000)
