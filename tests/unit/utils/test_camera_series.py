"""Series of single cameras: what they tell, and that there are never more than were allowed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.rtsp_capture.streams import stream_state
from services.rtsp_capture.streams.stream_state import StreamTracker
from tests.conftest import unique
from tests.kits.clock import Clock
from tests.promql import Recording, firing
from utils.camera_series import CameraSeries
from utils.exceptions import CaptureFailure
from utils.metrics import REGISTRY, exposition

RULES: dict[str, Any] = yaml.safe_load((Path(__file__).resolve().parents[3] / "deploy" / "alerts.yml").read_text("utf-8"))
EMPTY = CaptureFailure("read_timeout", "No picture came.")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def series(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[CameraSeries]:
    made = CameraSeries(clock)
    made.most = 2
    monkeypatch.setattr(stream_state, "camera_series", made)
    yield made
    for name, camera in list(made._cameras.items()):
        for stream in list(camera.streams):
            camera.streams.pop(stream)
        made._show(name, camera)
        made._forget(name)


def value(name: str, camera_id: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"ingestion_camera_{name}", {"camera_id": camera_id, **labels})


def states(camera_id: str) -> dict[str, float]:
    names = ("live", "stalled", "connecting", "backing_off", "closed")
    return {name: at for name in names if (at := value("state_seconds", camera_id, state=name)) is not None}


async def test_a_camera_from_its_first_stream_to_its_last(series: CameraSeries, clock: Clock) -> None:
    camera = unique()
    tracker = StreamTracker(camera)
    clock.now += 3
    assert (value("picture_age_seconds", camera), states(camera)) == (3, {"connecting": 3})
    tracker.live()
    tracker.heard()
    clock.now += 2
    assert (value("picture_age_seconds", camera), states(camera)) == (2, {"live": 2})
    tracker.failed(EMPTY, 1)
    clock.now += 5
    assert (value("picture_age_seconds", camera), states(camera)) == (7, {"backing_off": 5})
    other = StreamTracker(camera)  # by another URL
    other.live()
    clock.now += 1
    assert states(camera) == {"live": 1}  # the best of the two
    other.closed()
    assert states(camera) == {"backing_off": 0}
    tracker.closed()
    assert (value("picture_age_seconds", camera), states(camera)) == (None, {})
    clock.now += 100
    again = StreamTracker(camera)
    assert value("picture_age_seconds", camera) == 0  # while nobody wanted it, it was not silent
    again.closed()


def test_frames_and_slots(series: CameraSeries, clock: Clock) -> None:
    camera = unique()
    assert value("frame_age_seconds", camera) is None
    series.stored(camera)
    clock.now += 4
    assert value("frame_age_seconds", camera) == 4
    series.dropped(camera, "camera_down")
    series.dropped(camera, "camera_down", 2)
    series.dropped(camera, "spooled", 0)
    assert value("slots_dropped_total", camera, reason="camera_down") == 3
    assert value("slots_dropped_total", camera, reason="spooled") is None


def test_never_more_cameras_than_were_allowed(series: CameraSeries, clock: Clock) -> None:
    first, second, third = (unique() for _ in range(3))
    for name in (first, second, third):
        series.entered(name, name, "live")
        series.stored(name)
        series.dropped(name, "no_picture")
    beyond = "ingestion_cameras_without_series"
    assert states(third) == {}
    assert len(series._beyond) == 1
    assert third not in exposition().decode()
    series.entered(first, first, "closed")
    assert value("slots_dropped_total", first, reason="no_picture") == 1  # until another camera needs the room
    series.entered(third, third, "stalled")
    assert states(third) == {"stalled": 0}
    assert len(series._beyond) == 0
    assert first not in exposition().decode()
    series.most = 0
    series.entered(second, second, "closed")
    series.entered(first, first, "live")
    assert first not in exposition().decode()
    assert beyond in exposition().decode()


async def test_the_alert_of_a_camera_that_connects_and_sends_nothing(series: CameraSeries, clock: Clock) -> None:
    """It is opened over and over, so that it is never down for long."""
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    wanted = [rule for rule in rules if rule["alert"] in ("IngestionCameraNoPicture", "IngestionCameraDown")]
    recording = Recording({"job": "trackshift-ingestion", "instance": "a:8000"})
    silent, well = unique(), unique()
    trackers = {name: StreamTracker(name) for name in (silent, well)}
    for tracker in trackers.values():
        tracker.live()
    began = clock.now
    while clock.now - began <= 700:
        trackers[well].heard()
        trackers[silent].failed(EMPTY, 1)
        trackers[silent].connecting()
        trackers[silent].live()
        recording.add(clock.now - began, exposition().decode())
        clock.now += 15
    found = firing({"groups": [{"rules": wanted}]}, recording, 0, 690, 15)
    assert [dict(labels)["camera_id"] for labels in found["IngestionCameraNoPicture"]] == [silent]
    assert list(found["IngestionCameraNoPicture"].values()) == [615]
    assert not [labels for labels in found["IngestionCameraDown"] if dict(labels)["camera_id"] in (silent, well)]
    for tracker in trackers.values():
        tracker.closed()
