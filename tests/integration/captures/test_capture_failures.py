"""What goes wrong with a camera before its first picture: each has its code, in time, and no secret is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio

from demo.camera import Camera
from demo.faults import FaultProxy
from models.schemas import IngestionResponse
from models.values import IngestionStatus
from services.storage_service.service import StorageService
from tests.conftest import Backends, free_port
from tests.kits.capture_kit import Kit, open_kit
from utils.exceptions import FATAL_BEFORE_FIRST_PICTURE, AddressNotAllowed

SECRET = "s3cr@t/:#?%x"
ENCODED = quote(SECRET, safe="")
TIMEOUT = 3.0  # RTSP__CAPTURE_TIMEOUT


@pytest.fixture(scope="module")
def camera(films: dict[str, Path]) -> Iterator[Camera]:
    with Camera({name: films[name] for name in ("h264", "sound")}) as camera:
        yield camera


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kit(
    backends: Backends, storage: StorageService, reader: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Kit]:
    folder = tmp_path_factory.mktemp("data")
    async with open_kit(backends, storage, folder, MAX_CONCURRENT_STREAMS=50, READER=reader) as made:
        yield made


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port whose connections are never accepted nor refused: its line of waiting ones is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port


async def answering(text: str) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            await reader.read(10)
            writer.write(text.encode())
            await writer.drain()
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


def port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


SDP = "v=0\r\no=- 0 0 IN IP4 1.2.3.4\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 VP9/90000\r\n"


@pytest.mark.paced
async def test_each_failure_has_its_code_in_time_and_tells_no_secret(
    kit: Kit, camera: Camera, backends: Backends, capfd: pytest.CaptureFixture[str]
) -> None:
    with contextlib.ExitStack() as stack:
        proxies = {
            name: stack.enter_context(FaultProxy(camera.port))
            for name in ("silent", "auth", "digest", "basic", "403", "404", "453", "302", "target", "500", "setup")
        }
        proxies["silent"].black_hole()
        for name, scheme in (("auth", "both"), ("digest", "digest"), ("basic", "basic")):
            proxies[name].require_auth("admin", SECRET, scheme)  # type: ignore[arg-type]
        for name, status in (("403", 403), ("404", 404), ("453", 453), ("500", 500)):
            proxies[name].answer(status, "No")
        proxies["302"].answer(302, "Moved", {"Location": proxies["target"].url("h264")})
        proxies["setup"].answer(453, "Not Enough Bandwidth", method="SETUP")
        hole = stack.enter_context(black_hole())
        vp9 = await answering(f"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: {len(SDP)}\r\n\r\n{SDP}")
        plain = await answering("RTSP/1.0 400 Bad Request\r\n\r\n")
        user = f"admin:{ENCODED}"
        cases = {
            "connection_refused": f"rtsp://{user}@127.0.0.1:{free_port()}/x",
            "connect_timeout": f"rtsp://{user}@127.0.0.1:{hole}/x",
            "read_timeout": proxies["silent"].url("h264", user),
            "unauthorized_camera": proxies["digest"].url("h264", "admin:wr0ng-s3cr"),
            "unauthorized_camera, basic": proxies["basic"].url("h264", "admin:wr0ng-s3cr"),
            "unauthorized_camera, no password": proxies["auth"].url("h264"),
            "forbidden_camera": proxies["403"].url("h264", user),
            "stream_not_found": proxies["404"].url("h264", user),
            "stream_not_found, the camera's own": camera.url_of("nothing"),
            "camera_busy": proxies["453"].url("h264", user),
            "camera_busy, busy at SETUP": proxies["setup"].url("h264", user),
            "redirect_refused": proxies["302"].url("h264", user),
            "no_video": camera.url_of("sound"),
            "unsupported_codec": f"rtsp://{user}@127.0.0.1:{port_of(vp9)}/x",
            "tls_error": f"rtsps://{user}@127.0.0.1:{port_of(plain)}/x",
            "stream_ended": f"rtsp://{user}@127.0.0.1:{port_of(await answering('hello'))}/x",
            "dns_failure": f"rtsp://{user}@no-such-camera.invalid/x",
            "address_not_allowed": f"rtsp://{user}@localhost:{backends.db.PORT}/x",
        }
        found: dict[str, IngestionResponse] = {}

        async def run(name: str, url: str) -> None:
            found[name] = await kit.final(await kit.submit(url, capture_mode="single_frame"), TIMEOUT + 6)

        await asyncio.gather(*(run(name, url) for name, url in cases.items()))
        vp9.close()
        plain.close()
        assert proxies["302"].total == 1
        assert proxies["target"].total == 0  # nobody went where the redirect points, with or without a password
        assert all(not proxy.open for name, proxy in proxies.items() if name != "silent")

    codes = {name: found[name].error.code if found[name].error else None for name in cases}  # type: ignore[union-attr]
    assert codes == {name: name.partition(",")[0] for name in cases}
    for name, request in found.items():
        assert request.status is IngestionStatus.FAILED, name
        assert request.error is not None
        assert (request.progress.expected, request.progress.stored) == (1, 0), name
        assert sum(request.progress.dropped.values()) == 1, name
        assert request.started_at is not None
        assert request.completed_at is not None
        took = request.completed_at - request.started_at
        fatal = request.error.code in FATAL_BEFORE_FIRST_PICTURE
        assert request.error.retryable is not fatal
        if fatal:
            assert took < timedelta(seconds=TIMEOUT - 0.5), (name, took)  # at once: nothing is waited for
        else:
            assert timedelta(seconds=TIMEOUT) <= took < timedelta(seconds=TIMEOUT + 2.5), (name, took)
        told = request.model_dump_json()
        assert "s3cr" not in told, name
    written = "".join(capfd.readouterr())
    assert "stream_state" in written  # the log is there to be judged
    assert "s3cr" not in written
    assert ENCODED not in written


@pytest.mark.parametrize("scheme", ["basic", "digest", "both", "qop", "SHA-256"])
async def test_the_right_password_opens_whatever_is_in_it(
    kit: Kit, camera: Camera, scheme: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with FaultProxy(camera.port) as proxy:
        fields = {"qop": {"qop": True}, "SHA-256": {"algorithm": "SHA-256", "qop": True}}.get(scheme, {"scheme": scheme})
        proxy.require_auth("admin", SECRET, **fields)  # type: ignore[arg-type]
        request = await kit.completed(await kit.submit(proxy.url("h264", f"admin:{ENCODED}"), capture_mode="single_frame"))
    assert request.source is not None
    assert request.source.url == f"rtsp://127.0.0.1:{proxy.port}/h264"
    assert "s3cr" not in request.model_dump_json()
    written = "".join(capfd.readouterr())
    assert "s3cr" not in written


async def test_a_literal_that_is_not_allowed_is_refused_when_posted(kit: Kit, backends: Backends) -> None:
    for host in ("8.8.8.8", "169.254.169.254", "[fe80::1]", "[::ffff:8.8.8.8]", f"127.0.0.1:{backends.db.PORT}"):
        with pytest.raises(AddressNotAllowed):
            await kit.submit(f"rtsp://{host}/x")


@pytest.mark.paced
async def test_a_continuous_capture_waits_for_its_camera_and_then_runs(kit: Kit, camera: Camera) -> None:
    """Beyond RTSP__CAPTURE_TIMEOUT, for it lasts longer itself; its slots are counted from the first picture."""
    with FaultProxy(camera.port) as proxy:
        proxy.refuse()
        request = await kit.submit(
            proxy.url("h264"), capture_mode="continuous", capture_duration=4.5, fps=2.0, sampling="exact"
        )
        early = await kit.until(request, lambda r: r.error is not None)
        assert early.error is not None
        assert early.error.code == "connection_refused"
        assert (early.status, early.grid_start, early.progress.expected) == (IngestionStatus.IN_PROGRESS, None, 0)
        await asyncio.sleep(TIMEOUT - 0.5)
        proxy.listen()
        found = await kit.completed(request)
    assert (found.progress.expected, found.progress.stored) == (9, 9)
    (gap,) = found.progress.gaps  # from the capture's beginning to its first picture
    assert gap.reason == "camera_down"
    assert found.started_at is not None
    assert gap.from_ >= found.started_at
    assert gap.to == found.grid_start
    assert found.progress.reconnects == 0
    assert found.error is None


@pytest.mark.paced
async def test_others_do_not_wait_for_a_camera_that_hangs(kit: Kit, camera: Camera) -> None:
    with FaultProxy(camera.port) as silent, FaultProxy(camera.port) as good, black_hole() as hole:
        silent.black_hole()
        bad = [f"rtsp://127.0.0.1:{hole}/x", silent.url("h264"), f"rtsp://127.0.0.1:{free_port()}/x"]
        waiting = [await kit.submit(url, capture_mode="single_frame") for url in bad * 3]
        began = time.monotonic()
        found = await kit.completed(await kit.submit(good.url("h264"), capture_mode="single_frame"), 3)
        print(f"\nfirst frame beside {len(waiting)} hanging cameras: {time.monotonic() - began:.2f} s")
        assert time.monotonic() - began < 2.5  # up to 1 s of it until the film's next keyframe
        assert found.progress.stored == 1
        for request in waiting:
            assert (await kit.final(request)).status is IngestionStatus.FAILED
