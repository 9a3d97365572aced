"""How a stream stands: one line for each change, one for many failures, and a gauge that says the same."""

from __future__ import annotations

import asyncio
import json
import logging
import time

import pytest
import structlog

from services.rtsp_capture.streams import stream_state
from services.rtsp_capture.streams.stream_state import StreamState, StreamTracker
from tests.conftest import unique
from tests.kits.clock import Clock
from utils.exceptions import CaptureFailure
from utils.logger import Throttle
from utils.metrics import STREAMS

REFUSED = CaptureFailure("connection_refused", "Nothing listens.")


def gauge() -> dict[str, float]:
    return {state.value: STREAMS.labels(state=state.value)._value.get() for state in StreamState}


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What is written, whatever the other tests have set up."""
    written: list[dict[str, object]] = []

    def keep(_logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        written.append({**event, "level": method})
        raise structlog.DropEvent

    monkeypatch.setattr(stream_state, "log", structlog.wrap_logger(logging.getLogger("test"), processors=[keep]))
    return written


def told(lines: list[dict[str, object]]) -> list[tuple[object, object]]:
    return [(line.get("previous"), line["state"]) for line in lines]


async def test_each_change_is_one_line_and_the_gauge_follows(
    lines: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_state, "STALL_TIMEOUT", 0.05)
    before = gauge()

    def only(state: str | None) -> None:
        assert {name: n - before[name] for name, n in gauge().items() if n != before[name]} == ({state: 1} if state else {})

    status = StreamTracker(unique(), Throttle(10, Clock()))
    only("connecting")
    status.live()
    only("live")
    for _ in range(10):  # as long as packets come it is live
        await asyncio.sleep(0.02)
        status.heard()
    assert status.state is StreamState.LIVE
    began = time.monotonic()
    while status.state is StreamState.LIVE:
        await asyncio.sleep(0.005)
    assert 0.03 < time.monotonic() - began < 0.5
    only("stalled")
    assert status.open
    status.heard()
    only("live")
    status.failed(REFUSED, 1)
    only("backing_off")
    status.closing()
    status.closed()
    only(None)
    await asyncio.sleep(0.1)  # no timer speaks after the end
    assert told(lines) == [
        (None, "connecting"), ("connecting", "live"), ("live", "stalled"), ("stalled", "live"), ("live", "backing_off"),
        ("backing_off", "closed"),
    ]  # fmt: skip
    assert [line["level"] for line in lines] == ["info", "info", "warning", "info", "warning", "info"]
    assert (lines[4]["code"], lines[4]["failures"]) == ("connection_refused", 1)
    json.dumps(lines)


async def test_a_dead_camera_is_told_once_in_ten_seconds_with_the_count(
    lines: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    status = StreamTracker(unique(), Throttle(10, clock))
    monkeypatch.setattr(stream_state, "FAILURE_LOG_INTERVAL", 0.1)  # by the loop's clock
    for n in range(1, 61):  # a try a second, for a minute
        status.failed(REFUSED, n)
        clock.now += 0.5
        status.connecting()
        clock.now += 0.5
    assert told(lines)[:3] == [(None, "connecting"), ("connecting", "backing_off"), ("backing_off", "connecting")]
    rest = lines[3:]
    assert told(rest) == [("connecting", "backing_off")] * 5
    assert [(line["failures"], line["withheld"]) for line in rest] == [(11 + 10 * n, 9) for n in range(5)]
    status.live()
    assert lines[-1]["state"] == "backing_off"  # not before it stays: a camera that comes and goes is no news either
    clock.now -= 0.5
    status.failed(REFUSED, 61)
    status.connecting()
    status.live()
    monkeypatch.setattr(stream_state, "STALL_TIMEOUT", 10.0)
    await asyncio.sleep(0.15)
    assert (lines[-1]["previous"], lines[-1]["state"], lines[-1]["withheld"]) == ("connecting", "live", 10)
    assert len(lines) == 9
    assert status.last_failure is not None
    assert status.failure is None
    status.closed()


async def test_a_camera_that_stalls_again_and_again_is_told_once_in_ten_seconds(
    lines: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture every few seconds; or a connection that gives nothing, made anew each time."""
    clock = Clock()
    status = StreamTracker(unique(), Throttle(10, clock))
    monkeypatch.setattr(stream_state, "STALL_TIMEOUT", 0.01)
    status.live()

    async def stalled() -> None:
        while status.state is not StreamState.STALLED:
            await asyncio.sleep(0.005)

    for _ in range(10):  # one in 3 s
        await stalled()
        assert status.silent >= 0.01
        status.heard()
        clock.now += 3
    status.closing()
    status.closed()
    stalls = [line for line in lines if line["state"] == "stalled"]
    assert [line.get("withheld") for line in stalls] == [None, 3, 3]
    assert told(lines).count(("stalled", "live")) == 3


async def test_failures_are_counted_a_camera(lines: list[dict[str, object]]) -> None:
    throttle = Throttle(10, Clock())
    one, two, other = "cam-a", "cam-a", "cam-b"
    for camera in (one, two, other):
        status = StreamTracker(camera, throttle)
        status.failed(REFUSED, 1)
        status.closed()
    failures = [line["camera_id"] for line in lines if line["state"] == "backing_off"]
    assert failures == ["cam-a", "cam-b"]
