"""Self-fencing: a lease ends here before it can end in PostgreSQL, by a clock that only grows, whoever stands still."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest

from models.values import Claim
from services.execution.lease_watch import MARGIN, LeaseWatch, host_seconds
from tests.kits.clock import Clock

TTL = 6.0
SPAN = TTL * (1 - MARGIN)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def claim() -> Claim:
    return Claim(uuid4(), 1, resumed=False)


def test_a_lease_counts_from_when_it_was_asked_for(clock: Clock) -> None:
    watch, mine, told = LeaseWatch(TTL, clock), claim(), []
    watch.hold(mine, clock.now, lambda: told.append(clock.now))
    clock.now += SPAN - 0.01
    assert watch.may_act(mine)
    assert watch.poll() == pytest.approx(0.01)
    watch.renewed(mine, clock.now - 3)  # the answer took 3 s
    clock.now += SPAN - 3.01
    assert watch.may_act(mine)
    clock.now += 0.02
    assert not watch.may_act(mine)
    assert told == []
    assert watch.poll() is None
    assert watch.poll() is None
    assert told == [clock.now]  # once


def test_an_answer_that_comes_out_of_order_shortens_nothing(clock: Clock) -> None:
    watch, mine = LeaseWatch(TTL, clock), claim()
    watch.hold(mine, clock.now, lambda: None)
    watch.renewed(mine, clock.now + 2)
    watch.renewed(mine, clock.now + 1)
    clock.now += SPAN + 1.9
    assert watch.may_act(mine)


def test_a_renewal_gives_a_fenced_lease_back_and_says_so(clock: Clock) -> None:
    watch, mine, told = LeaseWatch(TTL, clock), claim(), []
    watch.hold(mine, clock.now, lambda: told.append(1))
    assert not watch.renewed(mine, clock.now)
    clock.now += SPAN
    watch.poll()
    assert not watch.renewed(mine, clock.now - SPAN)  # one that was asked for too long ago is of no use
    clock.now += 1
    watch.poll()
    assert watch.renewed(mine, clock.now - 0.5) or watch.may_act(mine)
    assert watch.may_act(mine)
    clock.now += SPAN
    watch.poll()
    assert len(told) >= 2


def test_what_is_not_held_may_not_act(clock: Clock) -> None:
    watch, mine, other = LeaseWatch(TTL, clock), claim(), claim()
    watch.hold(mine, clock.now, lambda: None)
    assert not watch.may_act(other)
    assert not watch.may_act(Claim(mine.request_id, 2, resumed=True))
    watch.release(mine)
    assert not watch.may_act(mine)
    assert not watch.renewed(mine, clock.now)


@pytest.fixture
def running() -> Iterator[LeaseWatch]:
    watch = LeaseWatch(0.3)
    watch.start()
    yield watch
    watch.stop()


def test_its_thread_tells_in_time_and_stops(running: LeaseWatch) -> None:
    fenced, mine, began = threading.Event(), claim(), host_seconds()
    running.hold(mine, began, fenced.set)
    time.sleep(0.1)  # this thread, as an event loop that is blocked
    running.renewed(mine, began + 0.1)
    assert not fenced.wait(0.1)
    assert fenced.wait(2)
    assert 0.1 + 0.25 <= host_seconds() - began < 1


def test_the_clock_is_not_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, mine = LeaseWatch(TTL), claim()
    watch.hold(mine, watch.clock(), lambda: None)
    real = time.time
    for step in (7200, -7200):
        monkeypatch.setattr(time, "time", lambda step=step: real() + step)
        assert watch.may_act(mine)
        assert watch.poll() == pytest.approx(SPAN, abs=0.5)
