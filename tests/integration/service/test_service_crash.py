"""What dies in between: the service, PostgreSQL, the S3 server. What was acknowledged stays, every slot is accounted for."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest

from demo.camera import Camera
from demo.film import make_film
from repositories.database import Database
from services.storage_service.keys import fresh_object_key
from services.storage_service.service import StorageService
from tests.conftest import Backends, Service, unique
from tests.kits.service_support import (
    FINAL,
    all_frames,
    assert_ledger,
    assert_objects,
    capture,
    embedded_service,
    final,
    jpeg,
    own_database,
    part_of,
    service_on,
    sha256,
    status,
    until,
    upload,
)
from tests.kits.sweep_kit import Place
from utils.embedded.running import running_postgres
from utils.ids import new_id

pytestmark = pytest.mark.paced

FPS = 5.0


@pytest.fixture(scope="module")
def camera() -> Iterator[Camera]:
    with Camera(size=(320, 180), fps=15, bitrate=300_000) as camera:
        yield camera


@pytest.fixture(scope="module")
def film_of_short_groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keyframe for each slot."""
    return make_film(tmp_path_factory.mktemp("films"), width=320, height=180, fps=25, gop=5, seconds=4, bitrate=600_000)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service with embedded parts, started again by the tests that kill it."""
    service = embedded_service(tmp_path_factory.mktemp("crash"), RTSP__LEASE_TTL="3")
    service.start()
    yield service
    if service.process is not None and service.process.poll() is None:
        began = time.monotonic()
        assert service.stop() == 0
        print(f"stopped in {time.monotonic() - began:.1f} s")


def client_of(service: Service) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=service.url, timeout=30)


async def stored(client: httpx.AsyncClient, request_id: str, more_than: int) -> dict[str, Any]:
    async def check() -> dict[str, Any] | None:
        found = await status(client, request_id)
        return found if found["progress"]["stored"] > more_than else None

    answer: dict[str, Any] = await until(check, f"more than {more_than} frames", 20)
    return answer


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def assert_whole(found: dict[str, Any], frames: list[dict[str, Any]], slots: int) -> None:
    """All planned slots came due, none is doubled, each frame lies at its slot's time on the one grid."""
    progress = found["progress"]
    assert found["status"] == "completed"
    assert progress["expected"] == slots
    assert progress["stored"] == len(frames)
    sequences = [item["sequence"] for item in frames]
    assert sequences == sorted(set(sequences))
    assert len({item["frame_id"] for item in frames}) == len({item["storage_path"] for item in frames}) == len(frames)
    times = [item["timestamp"] for item in frames]
    assert times == sorted(set(times))
    start = seconds(found["grid_start"])
    for item in frames:
        assert abs(seconds(item["timestamp"]) - start - item["sequence"] / FPS) < 0.5 / FPS + 0.15, item


async def test_kill_9_of_the_service_during_a_capture(embedded: Service, camera: Camera) -> None:
    service, duration = embedded, 16  # a start on a busy machine may take 10 s of it
    async with client_of(service) as client:
        kept = (await upload(client, unique(), jpeg())).json()["frames"]
        request_id = await capture(
            client, unique(), camera.url, capture_mode="continuous", capture_duration=duration, fps=FPS, sampling="exact"
        )
        before = await stored(client, request_id, 8)
    acknowledged = before["frames"]
    await asyncio.to_thread(service.kill)
    began = time.monotonic()
    await asyncio.to_thread(service.start)
    async with client_of(service) as client:
        at_start = await status(client, request_id)
        assert at_start["progress"]["stored"] >= before["progress"]["stored"]
        await stored(client, request_id, at_start["progress"]["stored"])
        resumed_after = time.monotonic() - began
        print(f"resumed {resumed_after:.1f} s after the start began")
        assert resumed_after < 10
        found = await final(client, request_id)
        frames = await all_frames(client, request_id)
        assert found["grid_start"] == before["grid_start"]
        assert_whole(found, frames, int(duration * FPS))
        assert seconds(found["completed_at"]) - seconds(found["grid_start"]) < duration + 3  # its planned end, not later
        missing = sorted(set(range(int(duration * FPS))) - {item["sequence"] for item in frames})
        progress = found["progress"]
        assert progress["dropped"]["lease_lost"] >= len(missing) - 5  # the stream's own beginning may cost some
        assert sum(progress["dropped"].values()) == len(missing)
        assert missing == list(range(missing[0], missing[-1] + 1))  # one hole
        (gap,) = [gap for gap in progress["gaps"] if gap["reason"] == "lease_lost"]
        start = seconds(found["grid_start"])
        assert seconds(gap["from"]) <= start + missing[0] / FPS
        assert seconds(gap["to"]) >= start + missing[-1] / FPS - 0.5 / FPS - 0.1
        assert {item["frame_id"] for item in acknowledged} <= {item["frame_id"] for item in frames}
        await assert_objects(client, frames + kept)


async def test_kill_9_during_captures_as_source_loses_nothing_and_leaves_nothing(
    backends: Backends, tmp_path: Path, film_of_short_groups: Path
) -> None:
    own = await own_database(backends)
    storage, database = StorageService(own.storage), Database(own.db, "trackshift-sweep")
    service = service_on(own, tmp_path, RTSP__LEASE_TTL="2", RTSP__SOURCE_CHECK="0")
    await asyncio.to_thread(service.start)
    try:
        with Camera(film_of_short_groups, join="burst") as source:
            async with client_of(service) as client:
                fields = {"capture_mode": "continuous", "capture_duration": 7, "fps": FPS, "encoding": "source"}
                requests = [await capture(client, unique(), source.url, **fields) for _ in range(4)]
                befores = [await stored(client, request_id, 4) for request_id in requests]
            await asyncio.to_thread(service.kill)
            await asyncio.to_thread(service.start)
            async with client_of(service) as client:
                listed: list[dict[str, Any]] = []
                for request_id, before in zip(requests, befores, strict=True):
                    found = await final(client, request_id)
                    frames = await all_frames(client, request_id)
                    assert_whole(found, frames, int(7 * FPS))
                    assert found["progress"]["dropped"]["lease_lost"] > 0
                    assert {item["frame_id"] for item in before["frames"]} <= {item["frame_id"] for item in frames}
                    assert {(item["format"], item["integrity"]) for item in frames} == {("h264", "undecoded")}
                    listed += frames
                # What the kill left, and one that it surely left: PUT, and no row.
                keys = {item["storage_path"] for item in listed}
                left = fresh_object_key("left", new_id(), datetime.now(UTC), "h264")
                await storage.put(left, b"x", "video/mp4", sha256(b"x"))

                async def swept() -> bool:  # the service's own pass may be under way, and be ended here first
                    await Place(own, database, storage).sweeper().sweep()
                    return {item.key async for item in storage.list_keys("frames/")} == keys

                await until(swept, "each object has its row", 20, 0.2)
                await assert_objects(client, listed)
    finally:
        await storage.close()
        await database.close()
        assert await asyncio.to_thread(service.stop) == 0


async def test_sigterm_hands_a_capture_back(backends: Backends, tmp_path: Path, camera: Camera) -> None:
    service, duration = service_on(await own_database(backends), tmp_path), 8
    await asyncio.to_thread(service.start)
    async with client_of(service) as client:
        request_id = await capture(
            client, unique(), camera.url, capture_mode="continuous", capture_duration=duration, fps=FPS, sampling="exact"
        )
        waiting = asyncio.create_task(client.get(f"/api/v1/ingest/status/{request_id}", headers={"Prefer": "wait=30"}))
        before = await stored(client, request_id, 5)
        assert service.process is not None
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        answer = await waiting  # somebody who waits is answered, not cut off
        assert answer.status_code == 200
        assert await asyncio.to_thread(service.process.wait, 20) == 0
        assert time.monotonic() - began < 5
    assert "capture_handed_back" in service.text()
    began = time.monotonic()
    await asyncio.to_thread(service.start)
    try:
        async with client_of(service) as client:
            started = time.monotonic()
            at_start = await status(client, request_id)
            assert at_start["status"] == "in_progress"
            await stored(client, request_id, at_start["progress"]["stored"])
            print(f"went on {time.monotonic() - started:.2f} s after it was ready")
            assert time.monotonic() - started < 5  # no lease to wait for: that would be 6 s
            found = await final(client, request_id)
            frames = await all_frames(client, request_id)
            assert found["grid_start"] == before["grid_start"]
            assert_whole(found, frames, int(duration * FPS))
            assert found["progress"]["dropped"]["lease_lost"] > 0
            await assert_objects(client, frames)
    finally:
        assert await asyncio.to_thread(service.stop) == 0


def find(service: Service, folder: str) -> psutil.Process | None:
    try:
        return part_of(service, folder)
    except AssertionError:
        return None


@dataclass
class Traffic:
    """Uploads and reads that go on whatever happens; what was acknowledged, and how the rest was refused."""

    client: httpx.AsyncClient
    camera_id: str = field(default_factory=unique)
    acknowledged: dict[str, str] = field(default_factory=dict)  # frame id to SHA-256
    refused: list[tuple[int, str, str]] = field(default_factory=list)  # status, code, method
    health: list[str] = field(default_factory=list)
    stop: bool = False

    async def uploads(self) -> None:
        while not self.stop:
            data = jpeg((64, 48))
            answer = await upload(self.client, self.camera_id, data)
            if answer.status_code == 201:
                self.acknowledged[answer.json()["frames"][0]["frame_id"]] = sha256(data)
            else:
                self.refuse(answer)
            await asyncio.sleep(0.05)

    async def reads(self) -> None:
        while not self.stop:
            answer = await self.client.get("/api/v1/frames", params={"camera_id": self.camera_id})
            if answer.status_code != 200:
                self.refuse(answer)
            await asyncio.sleep(0.05)

    async def checks(self) -> None:
        while not self.stop:
            answer = await self.client.get("/health")
            found = answer.json()
            assert answer.status_code == (503 if found["status"] == "unhealthy" else 200)
            if not self.health or self.health[-1] != found["status"]:
                self.health.append(found["status"])
            assert (await self.client.get("/health/live")).status_code == 200
            await asyncio.sleep(0.1)

    def refuse(self, answer: httpx.Response) -> None:
        found = answer.json()
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert int(answer.headers["retry-after"]) >= 1
        assert found["retryable"]
        self.refused.append((answer.status_code, found["code"], answer.request.method))


async def follow(client: httpx.AsyncClient, request_id: str) -> None:
    """Reads the capture's status until its end: whenever it can be read, the ledger's identity holds."""
    while True:
        answer = await client.get(f"/api/v1/ingest/status/{request_id}")
        if answer.status_code == 200:
            assert_ledger(answer.json())
            if answer.json()["status"] in FINAL:
                return
        else:
            assert answer.status_code == 503, answer.text
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("folder", "part", "code"),
    [("postgres", "database", "database_unavailable"), ("object-store", "storage", "storage_unavailable")],
)
async def test_kill_9_of_an_embedded_part(embedded: Service, camera: Camera, folder: str, part: str, code: str) -> None:
    service, duration = embedded, 9
    async with client_of(service) as client:
        traffic = Traffic(client)
        request_id = await capture(
            client, unique(), camera.url, capture_mode="continuous", capture_duration=duration, fps=FPS, sampling="exact"
        )
        await stored(client, request_id, 3)
        running = [asyncio.create_task(work()) for work in (traffic.uploads, traffic.uploads, traffic.reads, traffic.checks)]
        following = asyncio.create_task(follow(client, request_id))
        try:
            await until(lambda: asyncio.sleep(0, len(traffic.acknowledged) >= 5), "five uploads")
            began = time.monotonic()

            async def seen() -> bool:
                return "unhealthy" in traffic.health and any(item[1] == code for item in traffic.refused)

            kills = 0
            while not await seen():  # the first may be over before a health check, cached for a second, sees it
                kills += 1
                assert kills <= 8
                victim = await until(lambda: asyncio.to_thread(find, service, folder), "the part is there", 10)
                victim.kill()
                with contextlib.suppress(AssertionError):
                    await until(seen, "refused and unhealthy", 1)

            async def healthy_again() -> bool:
                return traffic.health[-1] == "healthy"

            await until(healthy_again, "healthy again", 30)
            back = time.monotonic() - began
            before = len(traffic.acknowledged)
            await until(lambda: asyncio.sleep(0, len(traffic.acknowledged) >= before + 5), "uploads work again", 30)
            async with asyncio.timeout(40):
                await following
        finally:
            traffic.stop = True
            following.cancel()
            ended = await asyncio.gather(*running, return_exceptions=True)
        assert ended == [None] * 4
        codes = {item[:2] for item in traffic.refused}
        print(
            f"{part}: healthy after {back:.1f} s, refused {len(traffic.refused)} {codes}, kept {len(traffic.acknowledged)}"
        )
        assert codes <= {(503, code), (503, "overloaded")}
        if part == "storage":
            assert {item[2] for item in traffic.refused} == {"POST"}  # lists need no store
        found = await status(client, request_id)
        frames = await all_frames(client, request_id)
        assert_whole(found, frames, int(duration * FPS))
        print(f"{part}: capture {found['progress']}")
        # Frames wait for the store and the database; a lease that lapsed meanwhile may cost some of them.
        assert set(found["progress"]["dropped"]) <= {"lease_lost", "camera_down"}
        if part == "storage":
            assert found["progress"]["dropped"] == {}
        await assert_objects(client, frames)
        for frame_id, digest in traffic.acknowledged.items():
            answer = await client.get(f"/api/v1/frames/{frame_id}/content", params={"proxy": "true"})
            assert sha256(answer.content) == digest
        query = {"camera_id": traffic.camera_id, "limit": "200"}
        listed = (await client.get("/api/v1/frames", params=query)).json()["items"]
        assert set(traffic.acknowledged) <= {item["frame_id"] for item in listed} or len(listed) == 200
        assert service.process is not None
        assert service.process.poll() is None


@pytest.mark.timeout(300)
async def test_a_primary_that_takes_no_writes_for_a_while(embedded: Service, camera: Camera) -> None:
    """As if the database were away: 503 for all, captures spool, and all of it works again without a restart."""
    service, duration, read_only_for = embedded, 16, 8.0
    found_at = running_postgres(Path(service.environment["DATA_DIR"]))
    began = time.monotonic()
    admin = await asyncpg.connect(host=found_at.host, port=found_at.port, user=found_at.user, database="postgres")
    try:
        async with client_of(service) as client:
            traffic = Traffic(client)
            request_id = await capture(
                client, unique(), camera.url, capture_mode="continuous", capture_duration=duration, fps=FPS, sampling="exact"
            )
            before = await stored(client, request_id, 3)
            running = [asyncio.create_task(work()) for work in (traffic.uploads, traffic.reads, traffic.checks)]
            try:
                await until(lambda: asyncio.sleep(0, len(traffic.acknowledged) >= 5), "five uploads", 90)
                await admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
                await admin.execute("SELECT pg_reload_conf()")
                began = time.monotonic()

                async def away() -> bool:
                    methods = {item[2] for item in traffic.refused if item[1] == "database_unavailable"}
                    return methods == {"GET", "POST"} and traffic.health[-1] == "unhealthy"

                await until(away, "uploads and reads refused, and unhealthy", 60)
                kept = len(traffic.acknowledged)
                await asyncio.sleep(max(0.0, began + read_only_for - time.monotonic()))
                assert len(traffic.acknowledged) == kept
            finally:
                await admin.execute("ALTER SYSTEM RESET default_transaction_read_only")
                await admin.execute("SELECT pg_reload_conf()")
                ended = time.monotonic() - began
            try:
                await until(lambda: asyncio.sleep(0, len(traffic.acknowledged) >= kept + 5), "uploads work again", 90)
                await until(lambda: asyncio.sleep(0, traffic.health[-1] == "healthy"), "healthy again", 90)
                found = await final(client, request_id, 120)
            finally:
                traffic.stop = True
                results = await asyncio.gather(*running, return_exceptions=True)
            assert results == [None] * 3
            assert {item[:2] for item in traffic.refused} <= {(503, "database_unavailable"), (503, "overloaded")}
            frames = await all_frames(client, request_id)
            assert_whole(found, frames, int(duration * FPS))
            print(f"read-only for {ended:.1f} s: {found['progress']}")
            assert set(found["progress"]["dropped"]) <= {"lease_lost", "camera_down"}
            # The spool kept pictures of that time.
            hidden = range(before["progress"]["expected"], before["progress"]["expected"] + int(read_only_for * FPS))
            assert len({item["sequence"] for item in frames} & set(hidden)) > len(hidden) / 2
            await assert_objects(client, frames[-10:])
    finally:
        await admin.close()
