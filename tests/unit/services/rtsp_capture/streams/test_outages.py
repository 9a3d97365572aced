"""How long a camera has been without a stream: counted through all retries, gone with the first packet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.rtsp_capture.streams import stream_state
from services.rtsp_capture.streams.outages import Outages
from services.rtsp_capture.streams.stream_state import StreamTracker
from tests.conftest import unique
from tests.kits.clock import Clock
from utils.exceptions import CaptureFailure
from utils.logger import Throttle
from utils.metrics import REGISTRY

REFUSED = CaptureFailure("connection_refused", "Nothing listens.")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outages(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outages]:
    made = Outages(clock)
    monkeypatch.setattr(stream_state, "outages", made)
    yield made
    assert made._since == {}


def seconds(camera_id: str) -> float | None:
    return REGISTRY.get_sample_value("ingestion_stream_down_seconds", {"camera_id": camera_id})


async def test_retries_do_not_begin_an_outage_anew(outages: Outages, clock: Clock) -> None:
    camera = unique()
    tracker = StreamTracker(camera, Throttle(10, clock))
    assert seconds(camera) == 0
    clock.now += 2
    assert seconds(camera) == 2  # it was never there
    tracker.live()
    assert seconds(camera) is None
    for attempt in range(1, 31):
        tracker.failed(REFUSED, attempt)
        clock.now += 9
        tracker.connecting()
        clock.now += 1
        assert seconds(camera) == attempt * 10
    tracker.live()
    tracker.heard()
    assert seconds(camera) is None
    tracker.failed(REFUSED, 1)
    clock.now += 5
    assert seconds(camera) == 5
    tracker.closed()
    assert seconds(camera) is None  # nobody wants it any more


async def test_a_stalled_stream_is_there(outages: Outages, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = unique()
    tracker = StreamTracker(camera, Throttle(10, clock))
    tracker.live()
    tracker._enter(stream_state.StreamState.STALLED)
    assert seconds(camera) is None
    tracker.closed()


def test_of_several_outages_of_a_camera_the_longest_counts(outages: Outages, clock: Clock) -> None:
    camera, other = unique(), unique()
    outages.begin(camera, "stream 1")
    clock.now += 10
    outages.begin(camera, "stream 2")
    outages.begin(camera, "stream 1")  # known
    outages.begin(other, "stream 1")
    clock.now += 1
    assert (seconds(camera), seconds(other)) == (11, 1)
    outages.end(camera, "stream 1")
    assert seconds(camera) == 1
    outages.end(camera, "stream 2")
    outages.end(camera, "stream 2")
    assert (seconds(camera), seconds(other)) == (None, 1)
    outages.end(other, "stream 1")
