"""How slowly a body may move: arithmetic, and bodies against a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request

from api.http.admission import json_budget
from api.http.body import chunks
from api.http.pace import BodyProgress, Pace, answer_pace, request_pace
from config import ApiSettings
from services.access.shares import UNSHARED
from utils.exceptions import RequestTimeout


def lasted(pace: Pace, *steps: tuple[float, int]) -> float:
    """Seconds of waiting until a body is over its pace; each step waits, then brings bytes. -1: never."""
    progress, clock = BodyProgress(pace), 0.0
    for seconds, size in steps:
        if seconds >= progress.seconds_left:
            return clock + progress.seconds_left
        progress.waited(seconds)
        clock += seconds
        progress.moved(size)
    return -1


def test_a_pause_may_take_the_silence_and_no_more() -> None:
    pace = Pace(silence=30, rate=1000)
    assert lasted(pace, (29, 100_000), (29, 100_000), (29, 1)) == -1
    assert lasted(pace, (31, 1)) == 30


def test_a_drop_now_and_then_is_no_progress() -> None:
    """A byte a second: over after the silence, not after hours."""
    assert lasted(Pace(silence=30, rate=1000), *[(1.0, 1)] * 100) == pytest.approx(30, abs=0.1)


def test_what_came_fast_does_not_pay_for_drops_afterwards() -> None:
    """500 MB at once, then a byte a second: it held its bytes for 34 hours when the average was asked for."""
    steps = [(1.0, 500_000_000), *[(1.0, 1)] * 1000]
    assert lasted(Pace(silence=30, rate=4096), *steps) == pytest.approx(31, abs=0.1)


def test_a_slow_and_honest_link_is_left_alone() -> None:
    assert lasted(Pace(silence=30, rate=4096), *[(1.0, 4096)] * 3000) == -1
    assert lasted(Pace(silence=30, rate=4096), *[(20.0, 0), *[(1.0, 20_000)] * 20] * 50) == -1


def test_without_a_rate_any_byte_will_do() -> None:
    assert lasted(Pace(silence=30), *[(29.0, 1)] * 1000) == -1


def test_the_whole_has_a_deadline() -> None:
    api = ApiSettings(BODY_TIMEOUT=30, MIN_BODY_RATE=1000, MAX_BODY_TIME=600)
    assert request_pace(api, 50_000).total == 80
    assert request_pace(api, 50_000_000).total == 600
    assert request_pace(ApiSettings(MIN_BODY_RATE=0, MAX_BODY_TIME=600), 1).total == 600
    assert lasted(request_pace(api, 50_000_000), *[(1.0, 2000)] * 10_000) == 600
    assert lasted(answer_pace(api), *[(1.0, 2000)] * 10_000) == -1


async def test_a_body_that_comes_too_slowly_is_408() -> None:
    """Each pause is allowed; together they are too slow. The clock is the test's: nothing waits."""
    now = 0.0

    async def receive() -> Any:
        nonlocal now
        now += 10
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)
    budget = json_budget(ApiSettings())
    with UNSHARED.hold("JSON bytes", "a", 1, amount=0) as share, budget.hold(share) as held:
        body = chunks(request, Pace(30, 1000, 600), 10**9, held, clock=lambda: now)
        with pytest.raises(RequestTimeout):
            print([len(data) async for data in body])
        assert (now, held.bytes, budget.total) == (40, 400, 400)
    assert budget.total == 0
