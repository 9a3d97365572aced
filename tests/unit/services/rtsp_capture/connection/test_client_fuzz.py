"""Any bytes from a camera, at any point of a conversation: our client and what reads its packets end in their own errors.

`make fuzz` runs this and the other fuzzers for long.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from services.rtsp_capture.connection.camera_address import parse_rtsp_url
from services.rtsp_capture.connection.native_media import NativeMedia
from services.rtsp_capture.connection.reader import ConnectionPlan
from services.rtsp_capture.connection.rtsp.conversation import Conversation
from services.rtsp_capture.connection.rtsp.framing import Data
from services.rtsp_capture.connection.rtsp.login import Login
from services.rtsp_capture.connection.rtsp.sdp import VideoTrack, aggregate_urls, control_urls, video_track
from services.rtsp_capture.connection.rtsp_client import RtspClient
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.timing.host_clock import HostClock
from tests.kits.fuzz import fuzzed
from tests.kits.odd_camera import H264, IDR, PPS, SLICE, SPS, framed, goodbye, report, rtp
from utils.exceptions import CaptureFailure

T0 = 1_800_000_000.0
STILL = HostClock(lambda: T0, lambda: T0)
SDP = f"v=0\r\ns=x\r\n{H264}".encode()
SESSION = b"Session: 12;timeout=5\r\nTransport: RTP/AVP/TCP;interleaved=0-1\r\n"
DIGEST = b'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256\r\n'


def answer(status: int, head: bytes = b"", body: bytes = b"") -> bytes:
    return b"RTSP/1.0 %d X\r\nCSeq: CSEQ\r\n%sContent-Length: %d\r\n\r\n" % (status, head, len(body)) + body


ANSWERS = st.one_of(
    st.sampled_from([
        answer(200), answer(200, b"", SDP), answer(200, SESSION), answer(401, DIGEST), answer(401), answer(453), answer(501),
        answer(302, b"Location: rtsp://10.0.0.1/x\r\n"), b"", b"\r\n",
        framed(rtp(1, 0, IDR)), framed(goodbye(), 1), b"$\x00\xff\xff", b"OPTIONS rtsp://x RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    ]),
    st.binary(max_size=120),
    st.builds(answer, st.integers(100, 699), st.binary(max_size=40), st.one_of(st.just(SDP), st.binary(max_size=80))),
)  # fmt: skip


class _Wire:
    """The camera's side: whatever is asked, it sends its next bytes."""

    def __init__(self, client: RtspClient, answers: list[bytes], piece: int) -> None:
        self._client, self._answers, self._piece = client, list(answers), piece
        self._loop = asyncio.get_running_loop()
        self.written = 0
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += len(data)
        assert b"\r\n\r\n" in data or data.startswith(b"$")
        self._loop.call_soon(self._send, data)

    def _send(self, request: bytes) -> None:
        if self.closed:
            return
        if not self._answers:
            self.close()
            return
        number = request.partition(b"CSeq: ")[2].partition(b"\r")[0]
        data = self._answers.pop(0).replace(b"CSEQ", number or b"1")
        for at in range(0, len(data), self._piece):
            if not self.closed:
                self._client.data_received(data[at : at + self._piece])
        if self._answers and not data.startswith(b"RTSP/1.0"):
            self._loop.call_soon(self._send, request)  # that was no answer: the next bytes may be

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.call_soon(self._client.connection_lost, None)

    abort = close

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1)


async def _talk(answers: list[bytes], piece: int) -> None:
    client = RtspClient(0.05)
    wire = _Wire(client, answers, piece)
    client.connection_made(cast(asyncio.BaseTransport, wire))
    conversation = Conversation("rtsp://127.0.0.1/x?a=b", Login("u", "p"))
    came: list[Data | None] = []
    try:
        await client.run(conversation.options())
        track = await client.run(conversation.describe())
        playing = await client.run(conversation.setup(track))
        client.expect(playing.channels)
        await client.run(conversation.start(playing))
        client.keep_alive(conversation, playing)
        client.deliver(came.extend)
        await asyncio.sleep(0)
    except (CaptureFailure, ConnectionError):
        pass
    finally:
        client.close(conversation)
        wire.close()
    assert wire.written < 100_000


@fuzzed
@given(st.lists(ANSWERS, max_size=14), st.sampled_from([1, 7, 10_000]))
def test_any_answers_end_in_a_failure_or_a_session(answers: list[bytes], piece: int) -> None:
    asyncio.run(_talk(answers, piece))


LINES = st.one_of(
    st.sampled_from([
        *H264.split("\r\n"), "m=video 0 RTP/AVP 26", "a=control:rtsp://10.1.1.1/x", "a=fmtp:96 sprop-parameter-sets=Z0I",
    ]),
    st.text(max_size=40), st.text("am=:/ 0123456789H26rtpmapvideo", max_size=40),
)  # fmt: skip


@fuzzed
@given(
    st.one_of(st.binary(max_size=400), st.lists(LINES, max_size=30).map(lambda lines: "\r\n".join(lines).encode())),
    st.text(max_size=30),
)
def test_any_sdp_gives_a_track_or_a_failure(data: bytes, base: str) -> None:
    began = time.process_time()
    try:
        track = video_track(data)
    except CaptureFailure:
        return
    asked = "rtsp://127.0.0.1:554/x?y"
    for url in (*control_urls(track, asked, base), *aggregate_urls(track, asked, base, asked)):
        assert url.isprintable()
        assert " " not in url
    assert time.process_time() - began < 1


PAYLOADS = st.one_of(
    st.sampled_from([SPS, PPS, IDR, SLICE, b"\x7c\x85\x88", b"\x7c\x45end", b"\x42\x01\x01", b"\x26\x01\xaf"]),
    st.just(b"\x78\x00\x04\x67\x42\x00\x1e"),
    st.binary(max_size=60),
)  # fmt: skip
PACKETS = st.one_of(
    st.builds(
        lambda number, ticks, payload, marker, ssrc: Data(0, rtp(number, ticks, payload, marker=marker, ssrc=ssrc)),
        st.integers(0, 40), st.one_of(st.integers(0, 9).map(lambda n: n * 3600), st.integers(0, 2**32 - 1)), PAYLOADS,
        st.booleans(), st.integers(6, 8),
    ),
    st.builds(lambda at, ticks: Data(1, report(at, ticks)), st.floats(0, 4e9), st.integers(0, 2**32 - 1)),
    st.builds(Data, st.integers(0, 3), st.binary(min_size=1, max_size=60)),
    st.none(),
)  # fmt: skip


@fuzzed
@given(st.sampled_from(["h264", "hevc", "mjpeg"]), st.booleans(), st.lists(st.lists(PACKETS, max_size=8), max_size=20))
def test_any_packets_give_pictures_or_a_failure(codec: str, lossy: bool, given_: list[list[Data | None]]) -> None:
    packets: list[Packet] = []
    plan = ConnectionPlan("cam", parse_rtsp_url("rtsp://127.0.0.1/x"), "tcp", 1, STILL, lambda info: None, packets.extend)
    track = VideoTrack(codec, 96, frozenset(), 90_000, "", "", (SPS, PPS) if codec == "h264" else (), 25.0, 3)
    media = NativeMedia(plan, track, (0, 1), lossy=lossy, max_pixels=1_000_000, max_offset=1.0)
    came = sum(len(data.payload) for part in given_ for data in part if data is not None)
    try:
        for part in given_:
            media.take(part, T0)
            media.flush()
    except CaptureFailure:
        pass
    media.close()
    heads = 1000 * len(packets) if codec == "mjpeg" else 0
    assert sum(len(packet.data) for packet in packets) <= came * 2 + heads
    assert all(packet.uncertainty >= 0 for packet in packets)
