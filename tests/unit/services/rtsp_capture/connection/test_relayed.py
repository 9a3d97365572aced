"""How `opencv` reads a camera: FFmpeg sees our relay and nothing of the camera."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from config import RtspSettings
from demo.camera import Camera
from demo.faults import FaultProxy
from demo.film import make_film
from services.rtsp_capture.connection.address import AddressPolicy, parse_rtsp_url
from services.rtsp_capture.connection.io_loop import IoLoop
from services.rtsp_capture.connection.opencv_reader import OpenCvReader
from services.rtsp_capture.connection.reader import Connection, ConnectionPlan, PacketReader, ReaderOptions
from services.rtsp_capture.connection.relay import Relay
from services.rtsp_capture.connection.relayed import RelayedConnector
from services.rtsp_capture.connection.session import SessionOpener
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.media.packets import StreamInfo
from services.rtsp_capture.timing.host_clock import HOST
from tests.kits.odd_camera import OddCamera
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

    async def until(self, count: int, connection: Connection) -> None:
        deadline = time.monotonic() + 20
        while len(self.packets) < count:
            assert not connection.ended.done(), connection.ended.result()
            assert time.monotonic() < deadline, len(self.packets)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def watching(
    url: str, transport: str = "tcp", network: str = "127.0.0.0/8"
) -> AsyncIterator[tuple[Watched, Connection]]:
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
    relay = Relay(await opener.open(parse_rtsp_url(camera.url_of("h264")), "tcp"), lambda: None, max_pixels=10**8)
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
