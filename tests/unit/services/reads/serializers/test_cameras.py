"""Probes as the wire shows them: figures rounded, an unreachable camera with its code."""

from __future__ import annotations

import pytest

from services.reads.serializers.cameras import to_clock, to_probe
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.media.packets import StreamInfo
from services.rtsp_capture.streams.probe import ProbeFindings, ProbeResult
from utils.exceptions import CaptureFailure


def packet(number: int, offset: float | None = None) -> Packet:
    """Picture `number` of a stream of 24 pictures a second, a keyframe each second; received 0.5 s after it was taken."""
    pts = number / 24
    return Packet(b"x" * 1000, pts, number % 24 == 0, 100 + pts, 100.5 + pts, 0.0, 1, clock_offset=offset)


def test_an_unreachable_camera() -> None:
    failure = CaptureFailure("connection_refused", "Nothing listens at the camera's address and port.")
    found = to_probe(ProbeResult(False, failure, None, ProbeFindings(), 100.0))
    shown = found.model_dump(mode="json", exclude_none=True)
    assert shown == {
        "reachable": False, "code": "connection_refused", "detail": "Nothing listens at the camera's address and port.",
        "warnings": [],
    }  # fmt: skip


def test_a_camera_whose_picture_cannot_be_decoded() -> None:
    findings = ProbeFindings(StreamInfo("h264", b"", 1920, 1080, 24.0))
    findings.take([packet(number, 0.0123456) for number in range(72)])
    failure = CaptureFailure("decode_failed", "The picture could not be decoded.")
    found = to_probe(ProbeResult(True, failure, 0.0184321, findings, 100.0, None, ("Prefer tcp.",)))
    assert (found.reachable, found.code, found.codec) == (True, "decode_failed", "h264")
    assert (found.width, found.height, found.fps, found.keyframe_interval_s) == (1920, 1080, 24.0, 1.0)
    assert (found.connect_ms, found.mb_per_day_at_1fps, found.warnings) == (18.4, None, ["Prefer tcp."])
    assert found.first_frame_ms == pytest.approx((findings.keys[0].received - 100.0) * 1000, abs=0.1)
    assert found.clock is not None
    assert found.clock.offset_ms == 12.346


def test_a_clock_that_is_not_known() -> None:
    assert to_clock(packet(0)).offset_ms is None
