"""What a hostile stream can make this process hold: each bound of a connection. (Heads, SDP, sets: tests in `rtsp/`.)"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from services.rtsp_capture.connection import io_loop, rtsp_relay, stamper
from services.rtsp_capture.connection.camera_address import parse_rtsp_url
from services.rtsp_capture.connection.io_loop import IoLoop, Linked
from services.rtsp_capture.connection.reader import ConnectionPlan
from services.rtsp_capture.connection.rtsp.framing import MAX_BODY_BYTES, Data
from services.rtsp_capture.connection.rtsp.sdp import MAX_TRACKS, VideoTrack, video_track
from services.rtsp_capture.connection.rtsp_session import RtspSession
from services.rtsp_capture.connection.stamper import Stamper
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.media.packets import RawPacket, StreamInfo
from services.rtsp_capture.timing.host_clock import HostClock
from tests.kits.odd_camera import H264, PPS, SLICE, SPS, rtp
from utils.exceptions import CaptureFailure

T0 = 1_800_000_000.0
STILL = HostClock(lambda: T0, lambda: T0)


def test_tracks_of_an_sdp() -> None:
    """The last that is looked at counts; and one of the largest size is read soon."""
    audio = "m=audio 0 RTP/AVP 0\r\n"
    assert video_track((audio * (MAX_TRACKS - 1) + H264).encode()).codec == "h264"
    with pytest.raises(CaptureFailure) as caught:
        video_track((audio * MAX_TRACKS + H264).encode())
    assert caught.value.code == "no_video"
    lines = (audio, "a=rtpmap:96 H264/90000\r\n", "m=video 0 RTP/AVP" + " 96" * 300 + "\r\n", "a=fmtp:96 " + "a=b;" * 900)
    for line in lines:
        began = time.process_time()
        try:
            video_track((line * (MAX_BODY_BYTES // len(line))).encode())
        except CaptureFailure:
            pass
        assert time.process_time() - began < 2


def test_packets_that_wait_for_the_clock() -> None:
    """A burst that never runs dry: stamped all the same, before 32 MB or 1,000 packets wait."""
    for size, most in ((1024 * 1024, 33), (10, 1001)):
        made = Stamper("cam", 1, StreamInfo("mjpeg", b"", 8, 8, 25.0), max_offset=1.0, host=STILL, parsed=False)
        came, waited = 0, 0
        for number in range(1200 if size == 10 else 80):
            came += len(list(made.push(RawPacket(bytes(size), number / 25, True, T0))))
            waited = max(waited, len(made._unsettled))
            assert made._unsettled_bytes <= stamper.MAX_UNSETTLED_BYTES
        assert waited < most
        assert came > 0


async def test_packets_that_wait_for_the_services_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is blocked, what comes is dropped up to the next keyframe that finds room."""
    posted: list[Callable[[], None]] = []
    delivered: list[Packet] = []
    monkeypatch.setattr(io_loop, "MAX_WAITING_BYTES", 1000)
    plan = ConnectionPlan(
        "cam", parse_rtsp_url("rtsp://127.0.0.1/x"), "tcp", 1, STILL, lambda info: None, delivered.extend
    )  # fmt: skip
    linked = Linked(cast(IoLoop, SimpleNamespace(post=posted.append)), plan)

    def come(*numbers: int) -> None:
        linked._came([Packet(bytes(100), n / 25, n % 10 == 0, T0, T0, 0.0, 1) for n in numbers])

    def loop_runs() -> list[int]:
        posted.clear()
        linked._take()
        numbers = [round(packet.pts * 25) for packet in delivered]
        delivered.clear()
        return numbers

    come(*range(25))
    assert linked._bytes <= 1000
    assert loop_runs() == list(range(10))
    come(*range(25, 35))
    assert loop_runs() == list(range(30, 35))  # what came before the keyframe refers to what was dropped
    monkeypatch.setattr(io_loop, "MAX_WAITING_PACKETS", 3)
    come(*range(40, 50))
    assert loop_runs() == [40, 41, 42]


async def test_what_ffmpeg_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection ends when so much waits for it."""
    monkeypatch.setattr(rtsp_relay, "_MAX_WAITING_BYTES", 100_000)

    async def start(*_: object) -> None: ...

    track = VideoTrack("h264", 96, frozenset(), 90_000, "", "", (SPS, PPS))
    session: Any = SimpleNamespace(track=track, channels=(0, 1), start=start, close=lambda: None)
    made = rtsp_relay.RtspRelay(cast(RtspSession, session), lambda: None, max_pixels=1_000_000)
    playing = asyncio.create_task(made.play(60.0))
    await asyncio.sleep(0)
    number = 0
    while made.failure is None and number < 20_000:
        number += 1
        made.take([Data(0, rtp(number, number * 3600, SLICE + bytes(1300)))])
    assert made.failure is not None
    assert "not read in time" in made.failure.message
    assert len(made._early) < 110_000
    with pytest.raises(CaptureFailure):
        await playing
