"""Uploads beyond what the service can hold: refused before the body is read, and nothing left behind by anybody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio

from tests.conftest import Backends, Service, running, unique
from tests.kits.service_support import (
    all_frames,
    assert_objects,
    jpeg,
    own_database,
    service_on,
    sha256,
    until,
    upload,
)

PATH = "/api/v1/ingest/upload"
MIB = 1_048_576
FORM = {"Content-Type": "multipart/form-data; boundary=B"}


def head(service: Service, length: int | None, *more: str) -> bytes:
    """The request's head; None: chunked."""
    size = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
    kind = f"Content-Type: {FORM['Content-Type']}"
    lines = (f"POST {PATH} HTTP/1.1", "Host: 127.0.0.1", kind, size, *more, "", "")
    return "\r\n".join(lines).encode()


def form(camera: str, data: bytes) -> bytes:
    return (
        f'--B\r\nContent-Disposition: form-data; name="camera_id"\r\n\r\n{camera}\r\n'
        f'--B\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'.encode()
        + data
        + b"\r\n--B--\r\n"
    )


class Peer:
    """One connection to the service, byte by byte."""

    def __init__(self, service: Service, sent: bytes) -> None:
        port = int(service.url.rpartition(":")[2])
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.sendall(sent)

    async def answer(self, seconds: float = 10) -> str:
        """The status line of what comes next."""
        self.socket.settimeout(seconds)
        return (await asyncio.to_thread(self.socket.recv, 65536)).decode().partition("\r\n")[0]

    def close(self) -> None:
        self.socket.close()


async def in_hand(client: httpx.AsyncClient) -> tuple[int, int]:
    """Uploads and their bytes, by the service's own metrics."""
    text = (await client.get("/metrics")).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return int(float(values["ingestion_uploads_in_flight"])), int(float(values["ingestion_upload_bytes_in_flight"]))


async def until_in_hand(client: httpx.AsyncClient, uploads: int) -> int:
    async def check() -> bool:
        return (await in_hand(client))[0] == uploads

    await until(check, f"{uploads} uploads in hand")
    return (await in_hand(client))[1]


def folders(service: Service) -> list[Path]:
    return list((Path(service.environment["DATA_DIR"]) / "tmp").glob("ingest-*/upload-*"))


@asynccontextmanager
async def serving(backends: Backends, folder: Path, **environment: str) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    settings = {"UPLOAD__DISK_RESERVE": "0", **environment}
    service = service_on(await own_database(backends), folder, **settings)
    async with running(service) as client:
        yield service, client


@pytest_asyncio.fixture(scope="module")
async def small(
    backends: Backends, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """Takes 10 MiB of uploads at once, and bodies of at least 20 KB a second after the first second."""
    settings = {
        "UPLOAD__MAX_BYTES_IN_FLIGHT": str(10 * MIB), "API__BODY_TIMEOUT": "1", "API__MIN_BODY_RATE": "20000",
    }  # fmt: skip
    async with serving(backends, tmp_path_factory.mktemp("small"), **settings) as found:
        yield found


@asynccontextmanager
async def holding(service: Service, client: httpx.AsyncClient, size: int) -> AsyncIterator[Peer]:
    """An upload that has sent `size` bytes and goes on, slowly enough never to end here."""
    peer = Peer(service, head(service, size + 5 * MIB))
    before = (await in_hand(client))[1]
    body = form("cam", b"x" * size)[:size]
    await asyncio.to_thread(peer.socket.sendall, body)

    async def here() -> bool:
        return (await in_hand(client))[1] >= before + size

    async def more() -> None:
        with contextlib.suppress(OSError):
            while True:
                await asyncio.to_thread(peer.socket.sendall, b"x" * 5000)
                await asyncio.sleep(0.1)

    feeding = asyncio.create_task(more())
    try:
        await until(here, f"{size} bytes in hand")
        yield peer
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        peer.close()


async def test_slow_clients_keep_nobody_out(small: tuple[Service, httpx.AsyncClient]) -> None:
    """What they announce counts for nothing; what they send too slowly ends."""
    service, client = small
    slow = [Peer(service, head(service, 9 * MIB) + b"--B") for _ in range(3)]
    assert await until_in_hand(client, 3) == 9
    assert (await upload(client, unique(), jpeg())).status_code == 201
    assert (await upload(client, unique(), jpeg() + b"\0" * 8 * MIB)).status_code in (201, 422)
    for peer in slow:
        assert await peer.answer() == "HTTP/1.1 408 Request Timeout"
        peer.close()
    assert await until_in_hand(client, 0) == 0


async def test_bytes_in_flight_are_bounded_before_the_body_is_read(small: tuple[Service, httpx.AsyncClient]) -> None:
    service, client = small
    async with asyncio.timeout(30), holding(service, client, 9 * MIB):
        waits = Peer(service, head(service, 2 * MIB, "Expect: 100-continue"))
        assert await waits.answer() == "HTTP/1.1 503 Service Unavailable"  # and no 100 before
        waits.close()
        refused = await client.post(PATH, content=b"x" * 2 * MIB, headers=FORM)
        assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "overloaded", "2")
        assert (await upload(client, unique(), jpeg())).status_code == 201  # what fits is taken
    assert await until_in_hand(client, 0) == 0
    # One that is larger than the bound is taken when it is alone, or it never would be.
    picture = jpeg() + b"\0" * 11 * MIB
    assert (await upload(client, unique(), picture)).status_code in (201, 422)


async def test_a_body_grows_within_the_bound(small: tuple[Service, httpx.AsyncClient]) -> None:
    service, client = small
    async with holding(service, client, 8 * MIB):
        grows = Peer(service, head(service, None))
        part = form("cam", b"x" * 3 * MIB)
        with contextlib.suppress(OSError):
            for at in range(0, len(part), 65_536):
                piece = part[at : at + 65_536]
                await asyncio.to_thread(grows.socket.sendall, f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        assert await grows.answer() == "HTTP/1.1 503 Service Unavailable"
        grows.close()
    assert await until_in_hand(client, 0) == 0
    assert folders(service) == []


async def test_a_slow_client_is_sent_away_an_honest_slow_link_is_not(small: tuple[Service, httpx.AsyncClient]) -> None:
    service, client = small
    data = jpeg((1600, 1200))
    body = form(unique(), data)
    began = time.monotonic()
    crawling = Peer(service, head(service, len(body)))
    honest = Peer(service, head(service, len(body)))

    async def feed(peer: Peer, rate: int) -> None:
        every = 0.2
        with contextlib.suppress(OSError):
            for at in range(0, len(body), max(1, int(rate * every))):
                peer.socket.sendall(body[at : at + max(1, int(rate * every))])
                await asyncio.sleep(every)

    feeding = [asyncio.create_task(feed(crawling, 5)), asyncio.create_task(feed(honest, len(body) // 4))]
    assert await crawling.answer() == "HTTP/1.1 408 Request Timeout"
    assert time.monotonic() - began < 4
    assert len(body) // 4 > 20_000
    assert await honest.answer(30) == "HTTP/1.1 201 Created"
    for task in feeding:
        task.cancel()
    await asyncio.gather(*feeding, return_exceptions=True)
    assert await until_in_hand(client, 0) == 0


async def test_clients_that_go_away_leave_nothing(small: tuple[Service, httpx.AsyncClient]) -> None:
    service, client = small
    body = form(camera := unique(), jpeg((800, 600)))
    process = psutil.Process(service.process.pid if service.process else 0)
    before = process.num_fds()
    for n in range(50):
        peer = Peer(service, head(service, len(body)) + body[: n * len(body) // 50])
        if n % 2:  # a reset instead of an end
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
    assert await until_in_hand(client, 0) == 0

    async def clean() -> bool:
        return folders(service) == [] and process.num_fds() <= before + 2

    await until(clean, "no folder, no descriptor left")
    assert (await client.get("/api/v1/ingest/requests", params={"camera_id": camera})).json()["items"] == []
    assert (await upload(client, camera, jpeg())).status_code == 201


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"mount is not permitted: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def test_a_disk_that_fills_while_receiving(backends: Backends, tmp_path: Path, tiny_disk: Path) -> None:
    settings = {"UPLOAD__TEMP_UPLOAD_DIR": str(tiny_disk), "UPLOAD__PART_SIZE": str(16 * MIB)}
    async with serving(backends, tmp_path, **settings) as (service, client):
        camera, good = unique(), jpeg()
        left = tiny_disk.stat().st_dev, os.statvfs(tiny_disk).f_bavail
        chunked = form(camera, b"x" * 9 * MIB)

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(chunked), 65_536):
                yield chunked[at : at + 65_536]

        for content in (pieces(), chunked):  # found in the middle; found by its length before
            answer = await client.post(PATH, content=content, headers=FORM)
            assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
            assert (tiny_disk.stat().st_dev, os.statvfs(tiny_disk).f_bavail) == left
        body = {"camera_id": camera, "filename": "a.jpg", "size_bytes": 9 * MIB}
        session = (await client.post(f"{PATH}/sessions", json=body)).json()
        assert (await asyncio.to_thread(httpx.put, session["upload_url"], content=bytes(9 * MIB))).status_code == 200
        completing = f"{PATH}/sessions/{session['session_id']}/complete"
        for _ in range(2):
            assert (await client.post(completing)).json()["code"] == "disk_full"
        assert (await client.get(f"{PATH}/sessions/{session['session_id']}")).json()["status"] == "open"
        answer = await upload(client, camera, good)
        assert answer.status_code == 201
        assert [frame["sha256"] for frame in answer.json()["frames"]] == [sha256(good)]
        assert folders(service) == []


async def test_out_of_file_descriptors_in_an_upload_storm(small: tuple[Service, httpx.AsyncClient]) -> None:
    """It refuses or hangs up while there are none, then goes on as before; what it acknowledged is there."""
    service, client = small
    assert service.process is not None
    process = psutil.Process(service.process.pid)
    assert (await upload(client, unique(), jpeg())).status_code == 201
    limit = process.num_fds() + 20
    hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, hard))
    camera, stored, told = unique(), [], dict[Any, int]()

    async def one(n: int) -> None:
        async with httpx.AsyncClient(base_url=service.url, timeout=20) as own:
            for _ in range(3):
                data = jpeg((200, 150 + n))
                try:
                    answer = await upload(own, camera, data)
                except httpx.TransportError as error:
                    told[type(error).__name__] = told.get(type(error).__name__, 0) + 1
                    continue
                told[answer.status_code] = told.get(answer.status_code, 0) + 1
                if answer.status_code == 201:
                    stored.append(answer.json()["request_id"])
                else:
                    assert answer.status_code in (503, 507), answer.text

    await asyncio.gather(*(one(n) for n in range(30)))
    print("out of descriptors:", told)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))
    assert sum(told.values()) > told.get(201, 0)  # it did run out
    assert await until_in_hand(client, 0) == 0
    assert folders(service) == []
    for _ in range(10):
        assert (await upload(client, unique(), jpeg())).status_code == 201
    frames = [frame for request_id in stored for frame in await all_frames(client, request_id)]
    assert len(frames) == len(stored)
    await assert_objects(client, frames)
    assert "Traceback" not in service.text() or "Too many open files" in service.text()
