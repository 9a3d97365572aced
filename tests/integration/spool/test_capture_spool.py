"""Store or database away while captures run: no frame is lost, none is late in memory, the ledger holds at every look."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from demo.camera import Camera
from models.access import ALL_CAMERAS
from models.entities import IngestionRequest
from models.schemas import IngestionResponse
from models.values import FINAL_STATUSES, IngestionStatus
from repositories.database import Database
from services.spool.spool import Spool
from services.storage_service.service import StorageService
from tests.conftest import Backends, unique
from tests.kits.capture_kit import Kit, open_kit, until
from tests.kits.faulty import Fault, behind, database_proxy, store_proxy
from tests.kits.service_support import own_database
from utils.exceptions import DatabaseUnavailable

pytestmark = pytest.mark.paced

FPS = 5.0
OUTAGE = float(os.environ.get("SPOOL_TEST_OUTAGE", "3"))  # seconds; `15` for the figures of the closing note
SPOOL: dict[str, object] = {"AFTER": 0.5, "RETRY_MAX_DELAY": 1}


@pytest.fixture(scope="module")
def camera(films: dict[str, Path]) -> Iterator[Camera]:
    with Camera(films["h264"], name="h264", join="burst") as camera:
        yield camera


def spool_of(kit: Kit) -> Spool:
    return kit.services.orchestrator._capture.spool


async def database_back(kit: Kit) -> None:
    """Connections of before the outage are found broken, one after the other, when they are used."""
    for _ in range(50):
        try:
            await kit.services.orchestrator._database.version()
            return
        except DatabaseUnavailable:
            await asyncio.sleep(0.1)


async def outage(
    backends: Backends, storage: StorageService, camera: Camera, folder: Path, part: str, fault: Fault, start: asyncio.Lock
) -> tuple[IngestionResponse, int]:
    """A capture with `part` away for OUTAGE seconds; what it said in the end, and how many frames were spooled at most."""
    own = await own_database(backends)
    folder.mkdir()
    proxy = store_proxy(own.storage) if part == "store" else database_proxy(own.db)
    direct = Database(own.db, "trackshift-tests")  # a look that no outage hides
    most = 0

    async def look() -> IngestionRequest:
        nonlocal most
        most = max(most, len(spool_of(kit).index))
        async with direct.unit_of_work() as uow:
            row = await uow.session.get(IngestionRequest, request, populate_existing=True)
            assert row is not None
            assert row.expected == row.stored + row.in_flight + sum(row.dropped().values())
            assert row.in_flight >= 0
            return row

    with proxy:
        through = behind(own, store=proxy) if part == "store" else behind(own, database=proxy)
        async with AsyncExitStack() as stack:
            async with start:
                kit = await stack.enter_async_context(
                    open_kit(through, storage, folder, SPOOL, STORE_RETRY=30, LEASE_TTL=30)
                )
            duration = OUTAGE + 5
            request = await kit.submit(
                camera.url, unique(), capture_mode="continuous", capture_duration=duration, fps=FPS, sampling="exact"
            )
            await kit.until(request, lambda r: r.progress.stored >= 8)
            proxy.fail(fault)
            deadline = time.monotonic() + OUTAGE
            stored = 0
            while time.monotonic() < deadline:
                row = await look()
                assert not row.dropped()  # in the spool is in flight
                assert row.stored >= stored
                stored = row.stored
                await asyncio.sleep(0.1)
            assert kit.services.orchestrator._capture.pictures.bytes < 20 * 60_000  # the rest is on disk
            proxy.heal()
            while True:
                row = await look()
                if row.status in [status.value for status in FINAL_STATUSES]:
                    break
                await asyncio.sleep(0.1)
            await database_back(kit)
            found = await kit.completed(request)
            assert found.progress.expected == round(duration * FPS)
            assert found.progress.dropped == {}, (part, fault)
            frames = await kit.frames(request)
            assert [frame.info.sequence for frame in frames] == list(range(round(duration * FPS)))
            for before, after in pairwise(frames):
                assert after.info.timestamp > before.info.timestamp
                assert after.taken > before.taken
            assert len(spool_of(kit).index) == 0
    await direct.close()
    return found, most


async def test_no_frame_is_lost_while_store_or_database_is_away(
    backends: Backends, storage: StorageService, camera: Camera, tmp_path: Path
) -> None:
    cases: list[tuple[str, Fault]] = [
        ("store", "killed"), ("store", "hung"), ("store", "503"), ("database", "killed"), ("database", "hung"),
    ]  # fmt: skip
    start = asyncio.Lock()  # Alembic's context is one for the process
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(outage(backends, storage, camera, tmp_path / f"{part}-{fault}", part, fault, start))
            for part, fault in cases
        ]
    for (part, fault), task in zip(cases, tasks, strict=True):
        found, most = task.result()
        assert most > 0, (part, fault)
        print(f"\n{part} {fault} for {OUTAGE:.0f} s: {found.progress.stored} stored, {most} in the spool at most, 0 lost")


async def test_source_pictures_wait_in_the_spool_and_another_process_goes_on(
    backends: Backends, storage: StorageService, camera: Camera, tmp_path: Path
) -> None:
    """One process takes keyframes while the store is away, and stops; the next one has its folder."""
    own = await own_database(backends)
    wanted = {
        "capture_mode": "continuous",
        "capture_duration": 9.0,
        "fps": 1.0,
        "sampling": "keyframe",
        "encoding": "source",
    }
    with store_proxy(own.storage) as proxy:
        through = behind(own, store=proxy)
        async with open_kit(through, storage, tmp_path, SPOOL, STORE_RETRY=30, SOURCE_CHECK=0) as kit:
            request = await kit.submit(camera.url, unique(), **wanted)
            await kit.until(request, lambda r: r.progress.stored >= 1)
            proxy.fail("killed")
            await until(lambda: len(spool_of(kit).index) >= 2, 15)
    async with open_kit(own, storage, tmp_path, SPOOL, STORE_RETRY=30, SOURCE_CHECK=0) as kit:
        found = await kit.replayed((await kit.final(request, 30)).request_id, but={"lease_lost"})
        frames = await kit.frames(request)
    assert found.status is IngestionStatus.COMPLETED
    assert len(frames) == found.progress.stored >= 5
    for frame in frames:
        info = frame.info
        assert (info.format, info.content_type, info.integrity) == ("h264", "video/mp4", "undecoded")
        assert info.storage_path.endswith(".mp4")
        assert frame.number % 25 == 0


async def test_a_capture_that_ends_while_the_store_is_away(
    backends: Backends, storage: StorageService, camera: Camera, tmp_path: Path
) -> None:
    own = await own_database(backends)
    fields = {"capture_mode": "continuous", "capture_duration": 3.0, "fps": FPS, "sampling": "exact"}
    with store_proxy(own.storage) as proxy:
        async with open_kit(behind(own, store=proxy), storage, tmp_path, SPOOL, STORE_RETRY=1) as kit:
            some = await kit.submit(camera.url, unique(), **fields)
            await kit.until(some, lambda r: r.progress.stored >= 3)
            proxy.fail("killed")
            none = await kit.submit(camera.url, unique(), **fields)
            limited = await kit.submit(camera.url, unique(), **{**fields, "capture_duration": 60.0}, max_frames=4)
            first, second, third = await asyncio.gather(*(kit.final(request) for request in (some, none, limited)))
            assert first.status is IngestionStatus.COMPLETED
            assert first.progress.dropped == {"spooled": 15 - first.progress.stored}
            assert second.status is IngestionStatus.FAILED  # completed needs a stored frame
            assert second.progress.dropped == {"spooled": 15}
            assert second.error is not None
            assert "spool" in second.error.message
            assert second.error.retryable
            assert third.progress.dropped == {"spooled": 4}  # those in the spool count
            health = await kit.services.health.check()
            assert health.checks["spool"].status == "healthy"
            assert "frames" in (health.checks["spool"].detail or "")
            proxy.heal()
            for request, status, slots in ((some, "completed", 15), (none, "failed", 15), (limited, "failed", 4)):
                found = await kit.replayed(request)
                assert (found.status, found.progress.stored) == (status, slots)
                frames = await kit.frames(request)
                assert [frame.info.sequence for frame in frames] == list(range(slots))
                assert max(abs(frame.error) for frame in frames) < 0.1


async def test_a_cancel_does_not_wait_for_a_store_that_hangs(
    backends: Backends, storage: StorageService, camera: Camera, tmp_path: Path
) -> None:
    own = await own_database(backends)
    with store_proxy(own.storage) as proxy:
        async with open_kit(behind(own, store=proxy), storage, tmp_path, {"AFTER": 30}, STORE_RETRY=30) as kit:
            request = await kit.submit(camera.url, capture_mode="continuous", fps=FPS, sampling="exact")
            await kit.until(request, lambda r: r.progress.stored >= 3)
            proxy.fail("hung")
            await kit.until(request, lambda r: r.progress.in_flight >= 6)
            began = time.monotonic()
            await kit.services.orchestrator.cancel(request, cameras=ALL_CAMERAS)
            found = await kit.final(request)
            took = time.monotonic() - began
            print(f"\ncancelled after {took:.1f} s: {found.progress.dropped}")
            assert took < 4
            assert found.status is IngestionStatus.CANCELLED
            assert set(found.progress.dropped) <= {"spooled", "cancelled"}
            assert found.progress.dropped["spooled"] >= 6
            proxy.heal()
            await until(lambda: len(spool_of(kit).index) == 0, 20)
            found = await kit.get(request)
            assert found.progress.stored >= 9
            assert set(found.progress.dropped) <= {"cancelled"}


async def test_a_full_spool_is_counted_and_nothing_hangs(
    backends: Backends, storage: StorageService, camera: Camera, tmp_path: Path
) -> None:
    own = await own_database(backends)
    small = {**SPOOL, "MAX_BYTES": 1_048_576, "POLICY": "drop_oldest"}
    with store_proxy(own.storage) as proxy:
        async with open_kit(behind(own, store=proxy), storage, tmp_path, small, STORE_RETRY=1) as kit:
            proxy.fail("killed")
            request = await kit.submit(
                camera.url, capture_mode="continuous", capture_duration=4.0, fps=25.0, sampling="exact", jpeg_quality=100
            )
            found = await kit.final(request)
            assert set(found.progress.dropped) == {"spooled", "spool_full"}
            assert (await kit.services.health.check()).checks["spool"].status == "degraded"
            lost = found.progress.dropped["spool_full"]
            proxy.heal()
            await until(lambda: len(spool_of(kit).index) == 0, 20)
            found = await kit.get(request)
            assert found.progress.dropped == {"spool_full": lost}
            sequences = [frame.info.sequence for frame in await kit.frames(request)]
            assert len(sequences) == 100 - lost
            assert set(range(90, 100)) <= set(sequences)  # the newest were kept


async def test_a_stop_while_the_store_hangs_spools_what_is_in_memory(
    backends: Backends, storage: StorageService, camera: Camera, tmp_path: Path
) -> None:
    own = await own_database(backends)
    with store_proxy(own.storage) as proxy:
        patient: dict[str, object] = {"AFTER": 30}
        async with open_kit(behind(own, store=proxy), storage, tmp_path, patient) as kit:
            request = await kit.submit(camera.url, capture_mode="continuous", capture_duration=14.0, fps=FPS)
            await kit.until(request, lambda r: r.progress.stored >= 5)
            proxy.fail("hung")
            await asyncio.sleep(2)
            assert len(spool_of(kit).index) == 0
            began, due = time.monotonic(), time.time()
        took = time.monotonic() - began
        proxy.heal()
        async with open_kit(own, storage, tmp_path, SPOOL) as kit:
            before = await kit.get(request)
            found = await kit.completed(request)
            frames = await kit.frames(request)
    print(f"\nstopped in {took:.1f} s; dropped then {before.progress.dropped}, in the end {found.progress.dropped}")
    assert took < 14  # a PUT that hangs keeps a thread of the store's pool for its timeouts
    assert found.grid_start is not None
    captured = int((due - found.grid_start.timestamp()) * FPS)  # slots of before the stop
    assert set(range(captured)) <= {frame.info.sequence for frame in frames}
    assert set(found.progress.dropped) <= {"lease_lost", "camera_down"}
    assert found.status is IngestionStatus.COMPLETED
