"""What a probe tells a stranger: of a camera all, of everything else one answer after one time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from config import RtspSettings
from demo.challenge import Challenge
from services.rtsp_capture.connection.camera_address import AddressPolicy, parse_rtsp_url
from services.rtsp_capture.connection.io_loop import IoLoop
from services.rtsp_capture.connection.lookups import Lookups
from services.rtsp_capture.connection.native_reader import NativeConnector
from services.rtsp_capture.connection.rtsp_session import SessionOpener
from services.rtsp_capture.streams import probe as probing
from services.rtsp_capture.streams.probe import NO_CAMERA, Prober, ProbeResult
from services.rtsp_capture.streams.stream import StreamDeps
from tests.conftest import free_port
from tests.kits.odd_camera import OddCamera
from utils.pool import WorkerPool


@dataclass
class Place:
    prober: Prober

    async def probe(self, url: str, *, stranger: bool = True) -> tuple[ProbeResult, float]:
        began = asyncio.get_running_loop().time()
        found = await self.prober.probe("cam", parse_rtsp_url(url), "tcp", stranger=stranger)
        return found, asyncio.get_running_loop().time() - began


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    settings = RtspSettings(OPEN_TIMEOUT=0.5, READ_TIMEOUT=1)
    names = {"nowhere.test": ["127.0.0.9"], "rebound.test": ["127.0.0.1"]}

    def look_up(name: str) -> list[str]:
        if name not in names:
            raise OSError("no such name")
        return names[name]

    policy = AddressPolicy(["127.0.0.1/32"], lookups=Lookups(look_up))
    io, pool = IoLoop(), WorkerPool("probe-test", 1)
    prober = Prober(StreamDeps(settings, NativeConnector(settings, io, SessionOpener(settings, policy)), pool))
    try:
        yield Place(prober)
    finally:
        await prober.close()
        await io.close()
        await pool.close()


async def says(stack: AsyncExitStack, text: bytes | None) -> int:
    """A port that answers so; None: it keeps silent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(10)
            if text is None:
                await reader.read()
            else:
                writer.write(text)
                await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    stack.callback(server.close)
    return int(server.sockets[0].getsockname()[1])


async def test_what_is_no_camera_is_one_answer_after_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that listens, a web server, an echo, a greeting, silence, a full line of connections, no such name, no TLS."""
    monkeypatch.setattr(probing, "MAX_CONCURRENT", 20)
    async with place() as made, AsyncExitStack() as stack:
        hole = stack.enter_context(socket.socket())
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(hole.getsockname())
        ports = [
            free_port(), hole.getsockname()[1], *[await says(stack, text) for text in (
                None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"-ERR unknown command\r\n",
                b"OPTIONS rtsp://127.0.0.1/ RTSP/1.0\r\nCSeq: 1\r\n\r\n",
            )],
        ]  # fmt: skip
        urls = [f"rtsp://127.0.0.1:{port}/x" for port in ports]
        urls += [f"rtsps://127.0.0.1:{ports[4]}/x", f"rtsp://no-such.test:{ports[2]}/x"]
        told = await asyncio.gather(*(made.probe(url) for url in urls))
        truth = await asyncio.gather(*(made.probe(url, stranger=False) for url in urls))
    after = made.prober.no_camera_after
    for url, (found, took) in zip(urls, told, strict=True):
        assert found.failure is not None
        assert (found.reachable, found.failure.code, found.failure.message) == (False, "connect_timeout", NO_CAMERA), url
        assert (found.connect_s, found.picture, found.warnings, found.findings.packets) == (None, None, (), [])
        assert took >= after - 0.01, url
    assert max(took for _, took in told) - min(took for _, took in told) < 2  # all that the loop's lateness leaves
    codes = [found.failure.code for found, _ in truth if found.failure is not None]
    assert set(codes) == {
        "connection_refused", "connect_timeout", "read_timeout", "stream_ended", "tls_error", "dns_failure"
    }  # fmt: skip
    assert codes[0] == "connection_refused"
    assert truth[0][1] < after


async def test_a_camera_keeps_its_codes_and_is_answered_at_once() -> None:
    async with place() as made:
        async with OddCamera(challenges=[Challenge("u", "p")]).serving() as odd:
            port = odd.port
            found, took = await made.probe(odd.url(userinfo="u:wrong@"))
            assert found.failure is not None
            assert found.failure.code == "unauthorized_camera"
            assert took < made.prober.no_camera_after - 0.5
        # It has answered RTSP before: that it is away now tells nobody of anything else.
        found, _ = await made.probe(odd.url())
        assert found.failure is not None
        assert found.failure.code == "connection_refused"
        # By a name that leads there as well; but not another port of the same name.
        codes = {f"rtsp://rebound.test:{port}/": "connection_refused", "rtsp://nowhere.test/": "address_not_allowed"}
        for url, code in codes.items():
            found, _ = await made.probe(url)
            assert found.failure is not None
            assert found.failure.code == code
        found, _ = await made.probe(f"rtsp://rebound.test:{free_port()}/")
        assert found.failure is not None
        assert found.failure.message == NO_CAMERA


async def test_strangers_who_wait_for_nothing_keep_no_administrator_waiting() -> None:
    async with place() as made:
        nothing = [asyncio.create_task(made.probe(f"rtsp://127.0.0.1:{free_port()}/")) for _ in range(8)]
        await asyncio.sleep(0)
        await made.probe(f"rtsp://127.0.0.1:{free_port()}/", stranger=False)
        assert not any(task.done() for task in nothing)
        for task in nothing:
            task.cancel()
        await asyncio.gather(*nothing, return_exceptions=True)
