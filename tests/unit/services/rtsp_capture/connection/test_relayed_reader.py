"""How `opencv` reads a camera: FFmpeg sees our relay and nothing of the camera."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import av
import pytest

from config import RtspSettings
from demo.camera import Camera
from demo.challenge import Challenge
from demo.faults import FaultProxy
from demo.film import make_film
from services.rtsp_capture.connection.camera_address import AddressPolicy, parse_rtsp_url
from services.rtsp_capture.connection.io_loop import IoLoop
from services.rtsp_capture.connection.opencv_reader import OpenCvReader
from services.rtsp_capture.connection.reader import ConnectionPlan, PacketConnection, PacketReader, ReaderOptions
from services.rtsp_capture.connection.relayed_reader import RelayedConnector
from services.rtsp_capture.connection.rtsp_relay import RtspRelay
from services.rtsp_capture.connection.rtsp_session import SessionOpener
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.media.packets import StreamInfo
from services.rtsp_capture.timing.host_clock import HOST
from tests.kits.hostile_camera import pictures
from tests.kits.odd_camera import FPS, H264, OddCamera, framed, rtp
from utils.exceptions import CaptureFailure


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Camera]:
    folder = tmp_path_factory.mktemp("films")
    films = {
        codec: make_film(folder, codec=codec, width=320, height=184, fps=25, seconds=4.0, bitrate=300_000)
        for codec in ("h264", "hevc", "mjpeg")
    }
    with Camera(films, join="burst") as camera:
        yield camera


class Watched:
    def __init__(self) -> None:
        self.infos: list[StreamInfo] = []
        self.packets: list[Packet] = []
        self.urls: list[str] = []

    def open_reader(self, options: ReaderOptions) -> PacketReader:
        self.urls.append(options.url)
        return OpenCvReader(options)

    async def until(self, count: int, connection: PacketConnection) -> None:
        deadline = time.monotonic() + 20
        while len(self.packets) < count:
            assert not connection.ended.done(), connection.ended.result()
            assert time.monotonic() < deadline, len(self.packets)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def watching(
    url: str, transport: str = "tcp", network: str = "127.0.0.0/8"
) -> AsyncIterator[tuple[Watched, PacketConnection]]:
    watched, io = Watched(), IoLoop()
    settings = RtspSettings(OPEN_TIMEOUT=5, READ_TIMEOUT=5)
    made = RelayedConnector(settings, io, SessionOpener(settings, AddressPolicy([network])), watched.open_reader)
    plan = ConnectionPlan("cam", parse_rtsp_url(url), transport, 1, HOST, watched.infos.append, watched.packets.extend)
    try:
        connection = await made(plan)
        try:
            yield watched, connection
        finally:
            connection.stop()
            await connection.ended
            await connection.join()
    finally:
        await io.close()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("codec", ["h264", "hevc", "mjpeg"])
async def test_each_codec_comes_through(camera: Camera, codec: str, transport: str) -> None:
    async with watching(camera.url_of(codec), transport) as (watched, connection):
        await watched.until(30, connection)
    (info,) = watched.infos
    assert (info.codec, info.width, info.height) == (codec, 320, 184)
    assert watched.packets[0].key


async def test_ffmpeg_gets_no_password_and_the_login_is_ours(camera: Camera) -> None:
    """A login that FFmpeg does not know: Digest with SHA-256."""
    with FaultProxy(camera.port) as proxy:
        proxy.require_auth("u", "s3cret", algorithm="SHA-256", qop=True)
        async with watching(proxy.url("h264", "u:s3cret")) as (watched, connection):
            await watched.until(10, connection)
            assert proxy.total == 1  # the connection that was asked is the one that plays
    (url,) = watched.urls
    assert "s3cret" not in url
    assert str(proxy.port) not in url
    assert url.startswith("rtsp://127.0.0.1:")


async def test_a_camera_that_redirects_the_second_time_leads_nobody_elsewhere() -> None:
    """It is asked once, by us; FFmpeg, which follows redirects, asks the relay."""
    touched = 0

    async def listen(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal touched
        touched += 1
        writer.close()

    forbidden = await asyncio.start_server(listen, "127.0.0.9", 0)
    there = f"rtsp://127.0.0.9:{forbidden.sockets[0].getsockname()[1]}/live/"
    odd = OddCamera(redirect=there, honest=1, base=there)
    async with odd.serving():
        with contextlib.suppress(CaptureFailure):
            async with watching(odd.url(), network="127.0.0.1/32") as (_, connection):
                await asyncio.wait({connection.ended}, timeout=1.5)
        assert len(odd.asked("DESCRIBE")) == len(odd.asked("PLAY")) == 1
    assert touched == 0
    forbidden.close()


async def test_the_end_is_the_cameras_own_and_a_stop_is_quick(camera: Camera) -> None:
    odd = OddCamera(play_status=453)
    async with odd.serving():
        with pytest.raises(CaptureFailure) as caught:
            async with watching(odd.url()):
                pass
    assert caught.value.code == "camera_busy"
    with FaultProxy(camera.port) as proxy:
        async with watching(proxy.url("h264")) as (watched, connection):
            await watched.until(5, connection)
            proxy.freeze()
            began = time.monotonic()
        assert time.monotonic() - began < 3  # not RTSP__READ_TIMEOUT
        proxy.thaw()
        async with watching(proxy.url("h264")) as (watched, connection):
            await watched.until(5, connection)
            proxy.drop_connections()
            end = await asyncio.wait_for(connection.ended, 10)
    assert end.failure is not None
    assert end.failure.code == "stream_ended"


async def test_a_camera_that_ends_as_ffmpegs_way_in_is_opened_leaves_no_port_open(camera: Camera) -> None:
    loop = asyncio.get_running_loop()
    opener = SessionOpener(RtspSettings(), AddressPolicy(["127.0.0.0/8"]))
    relay = RtspRelay(await opener.open(parse_rtsp_url(camera.url_of("h264")), "tcp"), lambda: None, max_pixels=10**8)
    await relay.play(5)
    servers: list[asyncio.Server] = []
    create = loop.create_server

    async def created(*args: Any, **given: Any) -> asyncio.Server:
        server = await create(*args, **given)
        relay._hung_up()
        servers.append(server)
        return server

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "create_server", created)
        with pytest.raises(CaptureFailure) as refused:
            await relay.listen()
    assert refused.value.code == "stream_ended"
    assert not servers[0].is_serving()


# -- what cameras do: the rows that `test_native_reader` has, on the way of OpenCV ------------------------------------------

AV1 = "m=video 0 RTP/AVP 97\r\na=rtpmap:97 AV1/90000\r\na=control:av1\r\n"


def _offers(*schemes: str, **more: Any) -> dict[str, Any]:
    """Logins in this order; `takes`: the one that is right."""
    kinds: dict[str, dict[str, Any]] = {
        "basic": {"scheme": "basic"}, "md5": {}, "md5 auth": {"qop": True}, "sha": {"algorithm": "SHA-256", "qop": True},
    }  # fmt: skip
    made = {name: Challenge("u", "s3cret", **kinds[name]) for name in schemes}
    takes = {"takes": [made[more.pop("takes")]]} if "takes" in more else {}
    return {"challenges": list(made.values()), **takes, **more}


ROWS: dict[str, dict[str, Any]] = {
    "Digest SHA-256": _offers("sha"), "qop=auth": _offers("md5 auth"), "MD5, SHA-256": _offers("md5", "sha"),
    "SHA-256, MD5": _offers("sha", "md5"), "both in one line": _offers("md5", "sha", one_line=True),
    "takes Basic alone": _offers("md5", "basic", takes="basic"), "takes Digest alone": _offers("basic", "md5", takes="md5"),
    "OPTIONS: 501": {"options": "501"}, "OPTIONS: closes": {"options": "close"}, "OPTIONS: silence": {"options": "silent"},
    "one place": {"places": 1},
    "leftovers": {"leftovers": framed(rtp(9, 5, b"\x41" + bytes(1300), ssrc=99)) * 4}, "before PLAY": {"before_play": True},
    "another channel, told": {"channels": "4-5", "sends_on": 4}, "another channel, not told": {"sends_on": 2},
    "unknown channels": {"controls": lambda number: framed(b"binary$\x00\x01", 77)},
    "every packet twice": {"pictures": lambda number: [packet for packet in pictures(number) for _ in range(2)]},
    "AV1 first": {"sdp": AV1 + H264}, "audio first": {"sdp": "m=audio 0 RTP/AVP 0\r\na=control:a\r\n" + H264},
    "odd c=": {"sdp": "c=IN c=IN IP4 0.0.0.0\r\nc=\x01\x02\r\n" + H264},
    "two payload types, a negative port": {"sdp": H264.replace("video 0 RTP/AVP 96", "video -1 RTP/AVP 98 96")},
    "rtpmap with two spaces": {"sdp": H264.replace("96 H264", "96  H264")},
    "rtpmap with a tab": {"sdp": H264.replace("96 H264", "96\tH264")},
    "metadata first": {
        "sdp": "m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\na=control:m\r\n" + H264
    },
    "numbers its answers wrongly": {"wrong_numbers": True},
}  # fmt: skip
SIGNS: list[dict[str, Any]] = [
    {"timeout": 1.0, "counts": frozenset({counts}), "answers_signs": answers}
    for counts in ("GET_PARAMETER", "OPTIONS", "RTCP") for answers in (True, False)
]  # fmt: skip


def _numbers(packets: list[Packet]) -> list[int]:
    """What the pictures show: each of the film of 20 is lighter than the one before."""
    decoder: Any = av.CodecContext.create("h264", "r")
    frames = [frame for packet in packets for frame in decoder.decode(av.Packet(packet.data))]
    return [round(float(frame.to_ndarray(format="gray").mean()) / 10) for frame in frames]


async def _captured(fields: dict[str, Any], count: int = 12) -> OddCamera:
    """Its pictures come whole, each once, in order."""
    odd = OddCamera(**{"pictures": pictures, **fields})
    async with odd.serving(), watching(odd.url(userinfo="u:s3cret@" if odd.challenges else "")) as (watched, connection):
        await watched.until(count, connection)
    first = next(at for at, packet in enumerate(watched.packets) if packet.key)
    assert not any(packet.corrupt or packet.lost for packet in watched.packets)
    numbers = await asyncio.to_thread(_numbers, watched.packets[first:])  # cameras beside this one count seconds
    assert len(numbers) >= count - first - 2
    assert numbers == [(numbers[0] + at) % 20 for at in range(len(numbers))]
    assert odd.logins <= 1
    assert odd.total == (2 if odd.options == "close" else 1)
    return odd


async def test_what_cameras_do_is_read_by_opencv_as_well() -> None:
    """The table of cameras, three at once: a test each would wait for an open each."""
    turn = asyncio.Semaphore(3)

    async def one(name: str) -> str:
        async with turn:
            try:
                await _captured(ROWS[name])
            except Exception as error:
                return f"{name}: {error!r}"
        return ""

    assert [told for told in await asyncio.gather(*map(one, ROWS)) if told] == []


@pytest.mark.paced
async def test_sessions_live_on_by_opencv_as_well() -> None:
    """By whatever the camera counts; and where its nonce goes stale in mid-session."""
    nonce = Challenge("u", "s3cret")

    async def renewed() -> None:
        await asyncio.sleep(1)
        nonce.renew()

    stale: dict[str, Any] = {"challenges": [nonce], "timeout": 1.0, "counts": frozenset({"GET_PARAMETER"})}
    cameras = await asyncio.gather(*(_captured(fields, 3 * FPS) for fields in (*SIGNS, stale)), renewed())
    for odd in cameras[:-1]:
        assert odd is not None
        assert odd.ended == [], odd
