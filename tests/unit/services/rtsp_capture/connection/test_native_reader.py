"""The reader `native` on cameras that do what owners report: whom it connects to, what it asks, what comes of it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import cv2
import pytest

from config import RtspSettings
from demo.camera import Camera
from demo.challenge import Challenge
from demo.film import make_film, read_frame_number
from demo.show import Faults
from models.values import TimestampSource
from services.rtsp_capture.connection.camera_address import AddressPolicy, parse_rtsp_url
from services.rtsp_capture.connection.io_loop import IoLoop
from services.rtsp_capture.connection.native_reader import NativeConnector
from services.rtsp_capture.connection.reader import ConnectionPlan, PacketConnection
from services.rtsp_capture.connection.rtsp_session import SessionOpener
from services.rtsp_capture.media.decoder import PictureDecoder
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.media.packets import StreamInfo
from services.rtsp_capture.timing.host_clock import HOST
from tests.kits.odd_camera import FPS, H264, IDR, PPS, SLICE, SPS, OddCamera, framed, goodbye, plain, report, rtp
from tests.unit.services.rtsp_capture.capture_films import Codec, received
from utils.exceptions import CaptureCode, CaptureFailure

LOOPBACK = AddressPolicy(["127.0.0.0/8"])
AV1 = "m=video 0 RTP/AVP 97\r\na=rtpmap:97 AV1/90000\r\na=control:av1\r\n"


@dataclass
class Watched:
    """What a connection has delivered."""

    infos: list[StreamInfo] = field(default_factory=list)
    packets: list[Packet] = field(default_factory=list)
    connection: PacketConnection | None = None

    async def until(self, count: int, seconds: float = 20.0) -> list[Packet]:
        deadline = time.monotonic() + seconds
        while len(self.packets) < count:
            assert self.connection is not None
            assert not self.connection.ended.done(), self.connection.ended.result()
            assert time.monotonic() < deadline, len(self.packets)
            await asyncio.sleep(0.01)
        return self.packets[:count]


class Native:
    """The reader with what a process has one of."""

    def __init__(self, settings: RtspSettings, policy: AddressPolicy) -> None:
        self.io = IoLoop()
        self.connect = NativeConnector(settings, self.io, SessionOpener(settings, policy))


def connector(policy: AddressPolicy = LOOPBACK, **settings: float) -> Native:
    return Native(RtspSettings(**{"OPEN_TIMEOUT": 5, "READ_TIMEOUT": 5, **settings}), policy)


@asynccontextmanager
async def watching(url: str, made: Native | None = None, transport: str = "tcp") -> AsyncIterator[Watched]:
    watched = Watched()
    plan = ConnectionPlan("cam", parse_rtsp_url(url), transport, 1, HOST, watched.infos.append, watched.packets.extend)
    mine = made or connector()
    try:
        watched.connection = connection = await mine.connect(plan)
        try:
            yield watched
        finally:
            connection.stop()
            await connection.ended
            await connection.join()
    finally:
        if made is None:
            await mine.io.close()


async def works(odd: OddCamera, userinfo: str = "", path: str = "live", count: int = 25) -> list[Packet]:
    async with odd.serving(), watching(odd.url(path, userinfo)) as watched:
        packets = await watched.until(count)
        assert watched.infos == [StreamInfo("h264", watched.infos[0].extradata, 320, 180, 50.0, tells_losses=True)]
    return packets


async def failure(odd: OddCamera, userinfo: str = "", made: Native | None = None) -> CaptureFailure:
    async with odd.serving():
        with pytest.raises(CaptureFailure) as caught:
            async with watching(odd.url("live", userinfo), made):
                pass
        for _ in range(200):  # nothing is left open
            if not odd.open:
                break
            await asyncio.sleep(0.01)
        assert not odd.open
    assert "s3cret" not in str(caught.value)
    return caught.value


def whole(packets: list[Packet]) -> bool:
    """As far as RTP says; these slices have no numbers that rise."""
    return not any(packet.corrupt for packet in packets)


# -- logins ---------------------------------------------------------------------------------------------------------


def challenge(scheme: str = "digest", **fields: Any) -> Challenge:
    return Challenge("u", "s3cret", scheme, **fields)  # type: ignore[arg-type]


SHA, MD5, BASIC = challenge(algorithm="SHA-256", qop=True), challenge(), challenge("basic")


@pytest.mark.parametrize(
    "fields",
    [
        {"challenges": [SHA]}, {"challenges": [challenge(qop=True)]}, {"challenges": [MD5, SHA]}, {"challenges": [SHA, MD5]},
        {"challenges": [MD5, SHA], "one_line": True}, {"challenges": [BASIC, MD5], "takes": [BASIC]},
        {"challenges": [MD5, BASIC], "takes": [BASIC]}, {"challenges": [BASIC, MD5], "takes": [MD5]},
        {"challenges": [BASIC, SHA, MD5], "takes": [MD5]},
    ],
)  # fmt: skip
async def test_every_login(fields: dict[str, Any]) -> None:
    odd = OddCamera(**fields)
    assert whole(await works(odd, "u:s3cret@", count=10))
    assert odd.logins <= 1
    assert odd.total == 1


async def test_a_wrong_password_is_tried_twice_at_most() -> None:
    for challenges in ([MD5], [BASIC], [SHA, MD5, BASIC]):
        odd = OddCamera(challenges=challenges)
        assert (await failure(odd, "u:wrong@")).code == "unauthorized_camera"
        assert 1 <= odd.logins <= 2
    assert (await failure(OddCamera(challenges=[MD5]))).code == "unauthorized_camera"  # no password at all


async def test_a_login_that_was_accepted_before_is_a_camera_that_is_busy() -> None:
    made, odd = connector(), OddCamera(challenges=[MD5])
    async with odd.serving():
        async with watching(odd.url("live", "u:s3cret@"), made) as watched:
            await watched.until(5)
        odd.takes = []
        for userinfo, code in (("u:s3cret@", "camera_busy"), ("u:other@", "unauthorized_camera")):
            with pytest.raises(CaptureFailure) as caught:
                async with watching(odd.url("live", userinfo), made):
                    pass
            assert caught.value.code == code


async def test_nonces_that_go_stale_in_mid_session() -> None:
    """The keep-alives are refused with a new nonce, and then answered."""
    odd = OddCamera(challenges=[MD5], timeout=1.0, counts=frozenset({"GET_PARAMETER"}))
    async with odd.serving(), watching(odd.url("live", "u:s3cret@")) as watched:
        await watched.until(5)
        MD5.renew()
        await watched.until(3 * FPS)
        assert odd.ended == []
        assert odd.logins == 0


# -- signs of life ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["ok", "501", "close", "silent"])
async def test_options_is_answered_or_not(options: str) -> None:
    odd = OddCamera(options=options)
    assert whole(await works(odd, count=10))
    assert odd.total == (2 if options == "close" else 1)


async def test_who_hung_up_on_options_is_not_asked_again() -> None:
    made, odd = connector(), OddCamera(options="close")
    async with odd.serving():
        for _ in range(2):
            async with watching(odd.url(), made) as watched:
                await watched.until(5)
    assert len(odd.asked("OPTIONS")) == 1


@pytest.mark.paced
async def test_sessions_live_on_by_what_the_camera_counts() -> None:
    """Six cameras at once, answering or not: each test of its own would wait three seconds."""
    odd = [
        OddCamera(timeout=1.0, counts=frozenset({counts}), answers_signs=answers)
        for counts in ("GET_PARAMETER", "OPTIONS", "RTCP") for answers in (True, False)
    ]  # fmt: skip
    for camera, packets in zip(odd, await asyncio.gather(*(works(one, count=3 * FPS) for one in odd)), strict=True):
        assert whole(packets), camera  # three timeouts
        assert camera.ended == [], camera


# -- places, transport, redirects -----------------------------------------------------------------------------------


async def test_one_place_is_enough() -> None:
    odd = OddCamera(places=1)
    assert whole(await works(odd, count=10))
    assert odd.total == 1  # the connection that asked is the one that captures


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"places": 0}, "camera_busy"), ({"places": 0, "busy_status": 503}, "camera_busy"),
        ({"setup_status": 461}, "transport_refused"), ({"play_status": 453}, "camera_busy"),
        ({"sdp": AV1}, "unsupported_codec"), ({"sdp": "m=audio 0 RTP/AVP 0\r\n"}, "no_video"),
        ({"setup_status": 302}, "redirect_refused"),
        ({"play_status": 301}, "redirect_refused"), ({"setup_status": 404}, "stream_not_found"),
    ],
)  # fmt: skip
async def test_refusals_have_their_codes(fields: dict[str, Any], code: CaptureCode) -> None:
    assert (await failure(OddCamera(**fields))).code == code


async def test_a_login_accepted_and_then_refused_is_busy() -> None:
    """401 to a right password, because the places are taken."""
    odd = OddCamera(challenges=[MD5], places=0, busy_status=401)
    assert (await failure(odd, "u:s3cret@")).code == "camera_busy"
    assert "transport: udp" in (await failure(OddCamera(setup_status=461))).message


async def test_nobody_is_connected_to_elsewhere() -> None:
    """Redirects, control URLs and Content-Base may name any address: a listener there sees no connection."""
    touched = 0

    async def listen(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal touched
        touched += 1
        writer.close()

    forbidden = await asyncio.start_server(listen, "127.0.0.9", 0)
    there = f"rtsp://127.0.0.9:{forbidden.sockets[0].getsockname()[1]}/live/"
    only = AddressPolicy(["127.0.0.1/32"])
    odd = OddCamera(redirect=there)
    assert (await failure(odd, made=connector(only))).code == "redirect_refused"
    for control, base in ((there + "t1", None), ("track1", there)):
        odd = OddCamera(sdp=H264.replace("track1", control), base=base)
        async with odd.serving(), watching(odd.url(), connector(only)) as watched:
            await watched.until(5)
    assert touched == 0
    forbidden.close()


async def test_a_name_is_resolved_once_and_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another answer of the resolver, later, changes nothing."""
    odd, answers = OddCamera(), 0
    async with odd.serving():
        real = socket.getaddrinfo

        def resolve(host: str, port: int, *rest: Any, **more: Any) -> Any:
            nonlocal answers
            if host != "camera.test":
                return real(host, port, *rest, **more)
            answers += 1
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1" if answers == 1 else "127.0.0.9", port))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        async with watching(f"rtsp://camera.test:{odd.port}/live", connector(AddressPolicy(["127.0.0.1/32"]))) as watched:
            await watched.until(5)
    assert answers == 1


# -- what comes -------------------------------------------------------------------------------------------------------

HALF = b"\x80\x60\x00\x09" + bytes(400) + framed(rtp(9, 5, b"\x41" + bytes(300), ssrc=99))[:200]


@pytest.mark.parametrize(
    "fields",
    [
        {"leftovers": HALF}, {"leftovers": framed(rtp(9, 5, b"\x41" + bytes(1300), ssrc=99)) * 4}, {"before_play": True},
        {"channels": "4-5", "sends_on": 4}, {"channels": "0-1", "sends_on": 2}, {"channels": ""},
        {"controls": lambda number: framed(b"binary$\x00\x01", 77)},
        {"pictures": lambda number: [packet for packet in plain(number) for _ in range(2)]},
    ],
    ids=["half a packet", "packets of another session", "before PLAY", "another channel, told", "another channel, not told",
         "no channel told", "unknown channels", "every packet twice"],
)  # fmt: skip
async def test_odd_streams_come_whole(fields: dict[str, Any]) -> None:
    packets = await works(OddCamera(**fields))
    assert whole(packets)
    assert [packet.key for packet in packets].count(True) >= 2
    # Nothing twice and nothing missing: a keyframe with its sets, nine pictures, and so on.
    units = [[nal.rstrip(b"\0") for nal in packet.data.split(b"\0\0\1")[1:]] for packet in packets]
    first = next(at for at, packet in enumerate(packets) if packet.key)
    assert units[first:] == [[SPS, PPS, IDR] if at % 10 == 0 else [SLICE] for at in range(len(units) - first)]


@pytest.mark.parametrize(
    "sdp",
    [
        AV1 + H264, "m=audio 0 RTP/AVP 0\r\na=control:a\r\n" + H264, "c=IN c=IN IP4 0.0.0.0\r\nc=\x01\x02\r\n" + H264,
        H264.replace("video 0 RTP/AVP 96", "video -1 RTP/AVP 98 96"), H264.replace("96 H264", "96  H264"),
        "m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\na=control:m\r\n" + H264,
    ],
)  # fmt: skip
async def test_odd_sdps_are_captured(sdp: str) -> None:
    odd = OddCamera(sdp=sdp)
    await works(odd, count=8)
    assert [request.uri for request in odd.asked("SETUP")] == [f"{odd.url()}/track1"]


async def test_answers_with_a_wrong_number_and_those_of_another_session() -> None:
    """A camera that numbers its answers wrongly is understood; a leftover answer is not taken for the right one."""
    await works(OddCamera(wrong_numbers=True), count=5)
    odd = OddCamera(leftovers=b"RTSP/1.0 404 Not Found\r\nCSeq: 5\r\n\r\n", options="close")
    await works(odd, count=5)


async def test_queries_are_kept_byte_for_byte() -> None:
    odd = OddCamera()
    await works(odd, path="live?ch=1&sub=%24a&x=%2F", count=5)
    assert {request.uri.partition("?")[2].partition("/")[0] for request in odd.requests} == {"ch=1&sub=%24a&x=%2F"}


async def test_framing_that_breaks_in_mid_stream_damages_nothing() -> None:
    def broken(number: int) -> bytes:
        return framed(rtp(0, 0, b"\x41" + bytes(900)))[:350] if number % 17 == 9 else b""

    packets = await works(OddCamera(controls=broken), count=80)
    assert any(packet.corrupt for packet in packets)
    for packet in packets:
        assert packet.corrupt or packet.data.rsplit(b"\0\0\1", 1)[1] in (IDR, SLICE)


async def test_what_is_lost_is_told_at_once() -> None:
    packets = await works(OddCamera(pictures=lambda n: [] if n == 23 else plain(n)), count=40)
    spoilt = [packet.corrupt for packet in packets]
    assert spoilt.index(True) == 23
    assert not any(spoilt[24:])  # the group's own damage takes those with it


async def test_goodbye_and_silence() -> None:
    """After a BYE nothing is waited for; silence is the end after RTSP__READ_TIMEOUT, also beside reports."""
    odd = OddCamera(controls=lambda number: framed(goodbye(), 1) if number == 20 else b"", stops_at=21)
    async with odd.serving(), watching(odd.url()) as watched:
        assert watched.connection is not None
        end = await asyncio.wait_for(watched.connection.ended, 10)
    assert (end.goodbye, end.failure and end.failure.code) == (True, "stream_ended")
    odd = OddCamera(controls=lambda number: framed(goodbye(99), 1) + framed(report(time.time(), 0), 1))
    async with odd.serving(), watching(odd.url(), connector(READ_TIMEOUT=0.8)) as watched:
        await watched.until(30)  # somebody else's goodbye
        odd.stops_at = 0
        assert watched.connection is not None
        end = await asyncio.wait_for(watched.connection.ended, 10)
    assert end.failure is not None
    assert (end.failure.code, end.goodbye) == ("read_timeout", False)


async def test_a_connection_that_the_camera_closes() -> None:
    odd = OddCamera(timeout=0.5, counts=frozenset())
    async with odd.serving(), watching(odd.url()) as watched:
        assert watched.connection is not None
        end = await asyncio.wait_for(watched.connection.ended, 10)
    assert end.failure is not None
    assert end.failure.code == "stream_ended"


async def test_pictures_beyond_the_bound_reach_no_decoder() -> None:
    """RTSP__MAX_PIXELS is judged from the parameter set: 320 x 192 coded."""
    odd = OddCamera()
    async with odd.serving(), watching(odd.url(), connector(MAX_PIXELS=65_536)) as watched:
        await watched.until(5)
    small = Native(RtspSettings(OPEN_TIMEOUT=5).model_copy(update={"MAX_PIXELS": 320 * 192 - 1}), LOOPBACK)
    odd = OddCamera()
    async with odd.serving(), watching(odd.url(), small) as watched:
        assert watched.connection is not None
        end = await asyncio.wait_for(watched.connection.ended, 10)
        assert watched.packets == []
    assert end.failure is not None
    assert end.failure.code == "unsupported_codec"


# -- times ------------------------------------------------------------------------------------------------------------


async def test_times_by_the_packets_themselves_are_exact_from_the_first_on() -> None:
    began = time.time()

    def stamped(number: int) -> list[bytes]:
        ntp = round((began + number / FPS + 2_208_988_800) * (1 << 32)).to_bytes(8, "big")
        extension = b"\xab\xac\x00\x03" + ntp + bytes(4)
        return [b"\x90" + packet[1:12] + extension + packet[12:] for packet in plain(number)]

    packets = await works(OddCamera(pictures=stamped), count=20)
    assert {packet.source for packet in packets} == {TimestampSource.RTP}
    for number, packet in enumerate(packets):
        assert packet.timestamp == pytest.approx(began + number / FPS, abs=1e-4)


async def test_times_by_reports_from_the_second_one_that_agrees() -> None:
    began = time.time()

    def reports(number: int) -> bytes:
        at = 0.0 if number == 0 else began + number / FPS  # the first is of 1970
        return framed(report(at, number * 90_000 // FPS), 1) if number % 10 == 0 else b""

    packets = await works(OddCamera(controls=reports), count=50)
    sources = [packet.source for packet in packets]
    assert sources[:10] == [TimestampSource.RECEIPT] * 10
    assert sources[-15:] == [TimestampSource.RTCP] * 15
    for number, packet in enumerate(packets):
        if packet.source is TimestampSource.RTCP:
            assert packet.timestamp == pytest.approx(began + number / FPS, abs=1e-4)
        assert packet.camera_time is None or packet.source is TimestampSource.RTCP


# -- a real camera ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["h264", "hevc"])
async def test_it_tells_what_udp_lost(codec: Codec, tmp_path: Path) -> None:
    """The demo's camera leaves RTP packets out: nothing smeared comes through, of H.265 neither."""
    path = make_film(tmp_path, codec=codec, width=640, height=360, fps=50, seconds=2.0, bitrate=5_000_000)
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    with Camera(path) as camera:
        camera.fault(Faults(loss=0.006))
        async with watching(camera.url, transport="udp") as watched:
            packets = await watched.until(260)
    assert any(packet.corrupt for packet in packets)
    decoder, told = PictureDecoder(watched.infos[0], lossy=True), Counter[str]()
    for picture in received(packets, watched.infos[0]):
        try:
            image = decoder.frame(picture).to_ndarray(format="gray")
        except CaptureFailure:
            told["refused"] += 1
            continue
        number = read_frame_number(image)
        whole = number is not None and cv2.absdiff(image, shown[number]).mean() <= 0.3
        told["good" if whole else "smeared"] += 1
    assert told["smeared"] == 0, told
    assert told["good"] >= 10
    assert told["refused"] >= 10
