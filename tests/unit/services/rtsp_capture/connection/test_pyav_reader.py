"""What can be told of PyAV's packets without a camera: the first one's time."""

from __future__ import annotations

import pytest

from services.rtsp_capture.connection.pyav_reader import first_timed
from services.rtsp_capture.media.packets import RawPacket

T0 = 1_800_000_000.0


def raw(pts: float | None, camera: float | None) -> RawPacket:
    return RawPacket(b"", pts, True, T0, camera=camera)


@pytest.mark.parametrize(
    ("first", "second", "pts"),
    [
        (raw(None, None), raw(0.04, None), 0.0),  # no report: FFmpeg counts from the first packet
        (raw(None, None), raw(0.04, T0 + 0.04), 0.0),  # the report came after it
        (raw(None, T0 + 0.04), raw(0.04, T0 + 0.04), 0.0),  # and is on both
        (raw(None, T0), raw(-0.2064, T0 + 0.04), -0.2464),  # the report came first: FFmpeg counts from it
        (raw(None, T0), raw(0.16, T0 + 0.16), 0.0),  # B-pictures
    ],
)
def test_the_first_packets_time(first: RawPacket, second: RawPacket, pts: float) -> None:
    assert first_timed(first, second).pts == pytest.approx(pts, abs=1e-6)
