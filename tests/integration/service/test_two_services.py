"""Two services on one database: each takes over from the other, however it went. Status is looked at all the time.

TEST_STOP_SECONDS: how long processes and PostgreSQL are stopped; the default is the shortest that lets leases lapse.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import psutil
import pytest
import pytest_asyncio

from config import DbSettings
from demo.camera import Camera
from demo.frame_number import NUMBER_BITS, read_frame_number
from demo.sources import capture_time
from tests.conftest import Backends, unique
from tests.kits.service_support import all_frames, assert_objects, capture, own_database, until
from tests.kits.takeover_kit import Looker, Pair, assert_whole, log_lines, pair_on, seconds
from tests.kits.tcp_proxy import TcpProxy
from utils.embedded.supervisor import EmbeddedParts

pytestmark = pytest.mark.paced

FPS = 5.0
CAMERA_FPS = 15
TTL = 3.0  # RTSP__LEASE_TTL: half its default, so that waiting for a lease to lapse takes half as long
WITHIN = TTL + 6.0  # seconds until somebody else has stored a frame: 3 s of work, and room beside other tests
STOPPED = float(os.environ.get("TEST_STOP_SECONDS", "5"))


@pytest.fixture(scope="module")
def camera() -> Iterator[Camera]:
    with Camera(size=(320, 180), fps=CAMERA_FPS, bitrate=300_000) as camera:
        yield camera


@dataclass
class Shared:
    pair: Pair
    proxy: TcpProxy  # between the first service and PostgreSQL


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shared]:
    own = await own_database(backends)
    with TcpProxy(own.db.HOST, own.db.PORT) as proxy:
        through = Backends(own.db.model_copy(update={"HOST": "127.0.0.1", "PORT": proxy.port}), own.storage, own.outside)
        async with pair_on(own, tmp_path_factory.mktemp("pair"), first=through, RTSP__LEASE_TTL=str(TTL)) as pair:
            yield Shared(pair, proxy)


async def begin(pair: Pair, camera: Camera, duration: float) -> str:
    for service in pair.services:  # a test before may have failed while one was down
        if service.process is None or service.process.poll() is not None:
            await asyncio.to_thread(service.start)
    async with httpx.AsyncClient(base_url=pair.services[0].url, timeout=20) as client:
        return await capture(
            client, unique(), camera.url, capture_mode="continuous", capture_duration=duration, fps=FPS, sampling="exact"
        )


async def error_of(client: httpx.AsyncClient, frame: dict[str, Any]) -> float:
    """Seconds by which a frame's time is off the one that its picture shows."""
    content = (await client.get(f"/api/v1/frames/{frame['frame_id']}/content", params={"proxy": "true"})).content
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    number = read_frame_number(image.astype(np.uint8)) if image is not None else None
    assert number is not None, frame
    at = seconds(frame["timestamp"])
    return at - capture_time(number, CAMERA_FPS, 2**NUMBER_BITS, at)


async def whole(pair: Pair, looker: Looker, duration: float) -> list[int]:
    """The capture's end: what must hold of it, and which slots have no frame."""
    found = await looker.final()
    assert found["status"] == "completed"
    async with httpx.AsyncClient(base_url=pair.services[1].url, timeout=20) as client:
        frames = await all_frames(client, looker.request_id)
        await assert_objects(client, frames)
        errors = [await error_of(client, item) for item in frames]
    missing = assert_whole(found, frames, round(duration * FPS), FPS)
    assert max(map(abs, errors)) < 0.25, sorted(errors)
    print(f"times off by at most {max(map(abs, errors)):.3f} s")
    print(f"{looker.looks} looks ({looker.unanswered} unanswered), missing {len(missing)} {found['progress']['dropped']}")
    return missing


async def test_kill_9_then_a_stop_in_good_order(shared: Shared, camera: Camera) -> None:
    pair, duration = shared.pair, 20.0
    request_id = await begin(pair, camera, duration)
    async with Looker(pair.services, request_id) as looker:
        await looker.until_stored(8)
        owner, epoch = await pair.owner(request_id), await pair.epoch(request_id)
        other = pair.other(owner)
        await asyncio.to_thread(owner.kill)
        took = await pair.first_frame_by(other, request_id, epoch + 1, 15)
        print(f"SIGKILL: the other's first frame after {took:.1f} s")
        assert took < WITHIN

        await asyncio.to_thread(owner.start)
        assert other.process is not None
        other.process.send_signal(signal.SIGTERM)
        began = time.monotonic()

        async def taken() -> bool:
            return await pair.epoch(request_id) == epoch + 2

        await until(taken, "the other has the lease", 10, 0.02)
        claimed = time.monotonic() - began
        assert claimed < TTL  # no lease to wait for
        took = claimed + await pair.first_frame_by(owner, request_id, epoch + 2, 10)
        print(f"SIGTERM: taken over after {claimed:.2f} s, the other's first frame after {took:.2f} s")
        assert took < 2 * TTL  # a start of a moment ago, on a machine that may be full, is part of it
        assert await asyncio.to_thread(other.process.wait, 20) == 0
        await asyncio.to_thread(other.start)
        missing = await whole(pair, looker, duration)
    assert len(missing) <= WITHIN * FPS


async def test_a_process_that_was_stopped_finds_itself_fenced(shared: Shared, camera: Camera) -> None:
    pair, duration = shared.pair, STOPPED + 6
    request_id = await begin(pair, camera, duration)
    cancelled = await begin(pair, camera, 600)
    async with Looker(pair.services, request_id) as looker, Looker(pair.services, cancelled) as second:
        await looker.until_stored(5)
        await second.until_stored(1)
        owner = await pair.owner(request_id)
        epoch, other = await pair.epoch(request_id), pair.other(owner)
        assert owner.process is not None
        began = time.monotonic()
        owner.process.send_signal(signal.SIGSTOP)
        async with httpx.AsyncClient(base_url=other.url, timeout=20) as client:
            assert (await client.post(f"/api/v1/ingest/requests/{cancelled}/cancel")).status_code in (200, 202)
            took = await pair.first_frame_by(other, request_id, epoch + 1, 15)
            assert took < WITHIN
            found = await second.final(15)
            assert found["status"] == "cancelled"
            await asyncio.sleep(max(0.0, STOPPED - (time.monotonic() - began)))
        owner.process.send_signal(signal.SIGCONT)
        async with httpx.AsyncClient(base_url=owner.url, timeout=20) as client:
            woken = time.monotonic()
            assert (await client.get("/health/live")).status_code == 200
            await until(lambda: asyncio.sleep(0, log_lines(owner, "lease_lost", ingestion_id=request_id)), "lost", 5)
            print(f"taken over after {took:.1f} s; {time.monotonic() - woken:.2f} s after SIGCONT the capture is given up")
            assert time.monotonic() - woken < TTL
            assert log_lines(owner, "lease_fenced", ingestion_id=request_id)
            assert (await client.get("/health/ready")).status_code == 200
        await whole(pair, looker, duration)


async def test_a_process_cut_off_from_postgresql_fences_itself(shared: Shared, camera: Camera) -> None:
    pair, proxy, duration = shared.pair, shared.proxy, 11.0
    first, second = pair.services
    assert second.process is not None
    second.process.send_signal(signal.SIGSTOP)  # so that the first claims
    try:
        request_id = await begin(pair, camera, duration)
        await until(lambda: asyncio.sleep(0, log_lines(first, "capture_accepted", ingestion_id=request_id)), "accepted")
        owner = await pair.owner(request_id)
    finally:
        second.process.send_signal(signal.SIGCONT)
    assert owner is first
    async with Looker(pair.services, request_id) as looker:
        await looker.until_stored(5)
        epoch = await pair.epoch(request_id)
        proxy.stall()
        began = time.monotonic()
        try:
            fenced = asyncio.create_task(
                until(lambda: asyncio.sleep(0, log_lines(first, "lease_fenced", ingestion_id=request_id)), "fenced", 10)
            )
            took = await pair.first_frame_by(second, request_id, epoch + 1, 15)
            assert fenced.done(), "the new owner began before the old one had fenced itself"
            async with httpx.AsyncClient(base_url=first.url, timeout=20) as client:
                assert (await client.get("/health/live")).status_code == 200
        finally:
            proxy.go_on()
        print(f"cut off: the other's first frame after {took:.1f} s, together {time.monotonic() - began:.1f} s")
        assert took < WITHIN
        await until(lambda: asyncio.sleep(0, log_lines(first, "capture_lost", ingestion_id=request_id)), "lost", 15)
        await whole(pair, looker, duration)


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[tuple[DbSettings, psutil.Process]]:
    """A server that nobody else uses, to be stopped: its settings and its process."""
    folder = tmp_path / "parts"
    parts = EmbeddedParts(folder, postgres=True, object_store=False, database="own", bucket="none", on_event=lambda *_: None)
    parts.start()
    assert parts.postgres is not None
    found = parts.postgres
    pid = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
    try:
        yield DbSettings(HOST=str(found.host), PORT=found.port, USER=found.user, NAME=found.database), psutil.Process(pid)
    finally:
        parts.stop()


async def test_postgresql_stands_still(
    backends: Backends, own_postgres: tuple[DbSettings, psutil.Process], tmp_path: Path, camera: Camera
) -> None:
    db, server = own_postgres
    bucket = backends.storage.model_copy(update={"BUCKET_NAME": unique("own")})  # another database's is not written to
    own, duration = Backends(db, bucket, outside=False), STOPPED + 7
    async with pair_on(own, tmp_path, RTSP__LEASE_TTL=str(TTL)) as pair:
        request_id = await begin(pair, camera, duration)
        async with Looker(pair.services, request_id) as looker:
            await looker.until_stored(5)
            stopped = [server, *server.children(recursive=True)]
            for process in stopped:
                process.suspend()
            try:
                await asyncio.sleep(STOPPED)
                for service in pair.services:
                    async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
                        assert (await client.get("/health/live")).status_code == 200
            finally:
                for process in stopped:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.resume()
            before, began = looker.last["progress"]["stored"], time.monotonic()
            await looker.until_stored(before, 15)
            print(f"PostgreSQL stopped for {STOPPED} s: the next frame {time.monotonic() - began:.1f} s after it went on")
            assert any(log_lines(service, "lease_fenced", ingestion_id=request_id) for service in pair.services)
            missing = await whole(pair, looker, duration)
    # Pictures that were taken meanwhile were kept; changing hands costs some slots, if it comes to that.
    assert len(missing) <= 4 * FPS
