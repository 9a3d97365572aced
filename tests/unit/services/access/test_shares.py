"""Shares of what is bounded."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from services.access.shares import Shares
from utils.exceptions import RateLimited


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
