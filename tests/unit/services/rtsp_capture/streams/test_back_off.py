"""When a stream is tried again: arithmetic."""

from __future__ import annotations

import pytest

from config import RtspSettings
from services.rtsp_capture.streams.back_off import BackOff, _jitter
from utils.exceptions import CaptureCode, CaptureFailure

SETTINGS = RtspSettings(RECONNECT_DELAY=1, RECONNECT_MAX_DELAY=30)


def delays(back_off: BackOff, code: CaptureCode, count: int) -> list[float]:
    return [back_off.failed(CaptureFailure(code, "x"), packets=False) for _ in range(count)]


def made() -> BackOff:
    return BackOff(SETTINGS, lambda: 1.0)


def test_a_camera_that_is_down_is_tried_ever_more_rarely() -> None:
    assert delays(made(), "connection_refused", 8) == [1, 2, 4, 8, 16, 30, 30, 30]
    assert delays(made(), "camera_busy", 7)[-1] == 30


def test_after_three_refused_logins_the_next_come_rarely() -> None:
    back_off = made()
    assert delays(back_off, "unauthorized_camera", 2) == [1, 2]
    assert back_off.explanation == ""
    assert delays(back_off, "unauthorized_camera", 3) == [300, 300, 300]
    assert "5 logins in a row were refused" in back_off.explanation
    assert "300 s" in back_off.explanation


def test_an_outage_in_between_does_not_count_them_anew() -> None:
    back_off = made()
    delays(back_off, "unauthorized_camera", 2)
    assert delays(back_off, "connection_refused", 1) == [4]
    assert delays(back_off, "unauthorized_camera", 1) == [300]
    assert delays(back_off, "connection_refused", 1) == [16]  # nothing was logged in to


def test_pictures_count_them_anew() -> None:
    back_off = made()
    delays(back_off, "unauthorized_camera", 5)
    assert back_off.failed(CaptureFailure("stream_ended", "x"), packets=True) == 1
    assert (back_off.failures, back_off.refused_logins, back_off.explanation) == (1, 0, "")
    # A login that is refused after pictures had come may be a place that is taken: the longest of the usual pauses.
    assert delays(back_off, "unauthorized_camera", 2) == [30, 30]
    assert delays(back_off, "unauthorized_camera", 1) == [300]
    assert delays(back_off, "forbidden_camera", 1) == [30]


def test_the_jitter_is_half_to_whole() -> None:
    shares = [_jitter() for _ in range(1000)]
    assert 0.5 <= min(shares) < max(shares) <= 1
    assert BackOff(SETTINGS, lambda: 0.5).failed(CaptureFailure("stream_ended", "x"), packets=False) == pytest.approx(0.5)
