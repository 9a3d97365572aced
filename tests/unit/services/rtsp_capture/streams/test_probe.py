"""What a probe makes of packets: true frame rate, keyframes, bitrate, warnings; and RFC 7396."""

from __future__ import annotations

from typing import Any

import pytest

from services.cameras.registry import merge_patch
from services.rtsp_capture.media.gop_buffer import Packet, Ring
from services.rtsp_capture.media.packets import StreamInfo
from services.rtsp_capture.streams import probe
from services.rtsp_capture.streams.probe import ProbeFindings

INFO = StreamInfo("h264", b"", 1920, 1080, 25.0)


def packet(number: int, *, fps: float = 25.0, gop: int = 25, size: int = 1000, shift: int = 0) -> Packet:
    """Picture `number` of a steady stream; `shift` moves its time of showing by whole pictures."""
    pts = (number + shift) / fps
    return Packet(b"x" * size, pts, number % gop == 0, pts, pts, 0.0, 1)


def seen(count: int, info: StreamInfo | None = INFO, **kind: Any) -> ProbeFindings:
    made = ProbeFindings(info)
    made.take([packet(number, **kind) for number in range(count)])
    return made


@pytest.mark.parametrize("fps", [5.0, 12.5, 25.0, 30000 / 1001, 60.0])
def test_figures_of_a_steady_stream(fps: float) -> None:
    found = seen(int(fps * 4), StreamInfo("h264", b"", 0, 0, fps), fps=fps, gop=10)
    assert found.fps == pytest.approx(fps)
    assert found.keyframe_interval == pytest.approx(10 / fps)
    assert found.bitrate == pytest.approx(8000 * fps, rel=1e-6)
    assert found.warnings("tcp") == []


def test_lost_packets_do_not_change_the_frame_rate() -> None:
    found = ProbeFindings(INFO)
    found.take([packet(number) for number in range(100) if number % 7])
    assert found.fps == pytest.approx(25)


def test_b_frames() -> None:
    order = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8]
    found = ProbeFindings(INFO)
    found.take([packet(number, gop=1000) for number in order])
    assert found.out_of_order
    assert found.fps == pytest.approx(25)
    assert any("B-frames" in line for line in found.warnings("tcp"))
    assert not seen(50).out_of_order


def test_keyframes_far_apart_tell_their_cost() -> None:
    found = seen(260, gop=250)
    assert found.keyframe_interval == pytest.approx(10)
    (line,) = found.warnings("tcp")
    assert "10.0 s apart" in line
    assert "250 pictures" in line


def test_when_it_has_seen_enough() -> None:
    assert not seen(50).enough
    assert seen(80).enough
    far = seen(200, gop=1000)
    assert not far.enough  # one keyframe: goes on
    assert "No second keyframe" in far.warnings("tcp")[0]
    assert seen(int(25 * probe.KEYFRAME_TIMEOUT) + 2, gop=1000).enough
    never = ProbeFindings(INFO)
    never.take([packet(number, gop=1000) for number in range(1, 50)])
    assert "No keyframe" in never.warnings("tcp")[0]
    heavy = ProbeFindings(INFO)
    heavy.take([packet(number, size=8 * 1024 * 1024) for number in range(20)])
    assert heavy.enough
    assert heavy.bytes <= probe.MAX_BYTES + 8 * 1024 * 1024


def test_nothing_seen_is_nothing_known() -> None:
    found = ProbeFindings()
    assert (found.fps, found.keyframe_interval, found.bitrate, found.span) == (None, None, None, 0.0)
    one = seen(1)
    assert (one.fps, one.keyframe_interval, one.bitrate) == (None, None, None)


def test_what_the_camera_says_and_does() -> None:
    assert "says 50 frames a second and sends 25" in seen(80, StreamInfo("h264", b"", 0, 0, 50.0)).warnings("tcp")[0]
    assert "UDP" in seen(80).warnings("udp")[0]


def test_a_ring_tells_how_far_it_reaches() -> None:
    ring = Ring(2.0, 10**9)
    assert (ring.span, ring.last_key(), list(ring.pictures())) == (None, None, [])
    for number in range(150):
        ring.append(packet(number))
    span, key = ring.span, ring.last_key()
    assert span is not None
    assert span[0] == pytest.approx(3.0)
    assert span[1] == pytest.approx(149 / 25)
    assert key is not None
    assert key.packet.pts == 5.0
    assert [picture.packet.pts for picture in ring.pictures()] == [number / 25 for number in range(75, 150)]


# RFC 7396, appendix A
@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}), ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}), ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}), ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}), ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}), (["a", "b"], ["c", "d"], ["c", "d"]), ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None), ({"a": "foo"}, "bar", "bar"), ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}), ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)  # fmt: skip
def test_merge_patch(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result
