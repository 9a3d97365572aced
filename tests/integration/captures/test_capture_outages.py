"""Cameras that freeze, die and come back; captures that are cancelled in whatever state they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from demo.camera import Camera
from demo.faults import FaultProxy
from models.access import ALL_CAMERAS
from models.schemas import IngestionResponse
from models.values import IngestionStatus
from services.storage_service.service import StorageService
from tests.conftest import Backends, free_port, unique
from tests.kits.capture_kit import Kit, open_kit
from tests.kits.service_support import own_database

CANCELLED = IngestionStatus.CANCELLED


@pytest.fixture(scope="module")
def camera(films: dict[str, Path]) -> Iterator[Camera]:
    with Camera(films["h264"], name="h264", join="burst") as camera:
        yield camera


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kit(
    backends: Backends, storage: StorageService, reader: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Kit]:
    async with open_kit(backends, storage, tmp_path_factory.mktemp("data"), READER=reader) as made:
        yield made


def check_outage(found: IngestionResponse, slots: int, fps: float, began: float, ended: float, code: str) -> None:
    """One gap, from the last picture to the first after it; the slots in it camera_down, all others stored."""
    assert found.status is IngestionStatus.COMPLETED
    progress = found.progress
    assert progress.reconnects == 1
    assert len(progress.gaps) == 1, progress
    gap = progress.gaps[0]
    assert gap.reason == "camera_down"
    assert gap.to is not None
    assert abs(gap.from_.timestamp() - began) < 0.3
    assert 0 <= gap.to.timestamp() - ended < 2.5  # back-off and opening; what the camera repeats of before is no matter
    assert set(progress.dropped) == {"camera_down"}, progress
    assert progress.expected == slots
    # A slot within half a slot of either edge has a picture, and what the camera repeats of before fills some too.
    assert -4 <= progress.dropped["camera_down"] - (gap.to - gap.from_).total_seconds() * fps <= 1.5
    assert found.error is None, code


@pytest.mark.paced
async def test_a_camera_that_dies_and_comes_back(kit: Kit, films: dict[str, Path]) -> None:
    with Camera(films["h264b"], name="x", join="burst") as camera:
        request = await kit.submit(camera.url, capture_mode="continuous", capture_duration=8.0, fps=5.0, sampling="exact")
        await kit.until(request, lambda r: r.progress.stored >= 8)
        began = time.time()
        camera.kill()
        down = await kit.until(request, lambda r: r.error is not None)
        assert down.error is not None
        assert down.error.code in ("stream_ended", "connection_refused")
        assert down.error.retryable
        await kit.until(request, lambda r: r.progress.dropped.get("camera_down", 0) >= 3)
        ended = time.time()
        await asyncio.to_thread(camera.start)
        found = await kit.completed(request)
        check_outage(found, 40, 5.0, began, ended, "died")
        frames = await kit.frames(request)
    assert found.grid_start is not None
    missing = sorted(set(range(40)) - {frame.info.sequence for frame in frames})
    assert missing == list(range(missing[0], missing[-1] + 1))
    for frame in frames:  # the grid is the same before and after
        assert abs(frame.error) < 0.05
        if frame.info.sequence in (missing[0] - 1, missing[-1] + 1):
            continue  # of the slots at the edges half the pictures are missing
        due = found.grid_start.timestamp() + frame.info.sequence / 5
        assert abs(frame.info.timestamp.timestamp() - due) <= 0.03


@pytest.mark.paced
async def test_a_camera_that_freezes_and_goes_on(kit: Kit, camera: Camera) -> None:
    with FaultProxy(camera.port) as proxy:
        request = await kit.submit(
            proxy.url("h264"), capture_mode="continuous", capture_duration=8.0, fps=4.0, sampling="exact"
        )
        await kit.until(request, lambda r: r.progress.stored >= 6)
        proxy.freeze()
        began = time.time()
        down = await kit.until(request, lambda r: r.error is not None)
        assert down.error is not None
        assert down.error.code == "read_timeout"
        assert 0.8 < time.time() - began < 2.5
        await kit.until(request, lambda r: r.progress.dropped.get("camera_down", 0) >= 5)
        ended = time.time()
        proxy.thaw()
        check_outage(await kit.completed(request), 32, 4.0, began, ended, "froze")


@pytest.mark.paced
async def test_a_short_stall_is_no_outage(kit: Kit, camera: Camera) -> None:
    """What was held back comes late and still fills its slots, with the times at which it was taken."""
    with FaultProxy(camera.port) as proxy:
        request = await kit.submit(
            proxy.url("h264"), capture_mode="continuous", capture_duration=4.0, fps=5.0, sampling="exact"
        )
        await kit.until(request, lambda r: r.progress.stored >= 5)
        proxy.freeze()
        await asyncio.sleep(0.6)
        proxy.thaw()
        found = await kit.completed(request)
    assert (found.progress.stored, found.progress.dropped, found.progress.gaps) == (20, {}, [])
    assert max(abs(frame.error) for frame in await kit.frames(request)) < 0.05


async def test_a_password_that_changes_mid_way_is_a_gap_too(kit: Kit, camera: Camera) -> None:
    """Fatal before the first picture, a gap after it."""
    with FaultProxy(camera.port) as proxy:
        request = await kit.submit(proxy.url("h264"), capture_mode="continuous", capture_duration=6.0, fps=2.0)
        await kit.until(request, lambda r: r.progress.stored >= 2)
        proxy.require_auth("admin", "new")
        proxy.drop_connections()
        down = await kit.until(request, lambda r: r.error is not None and r.error.code == "unauthorized_camera")
        assert down.status is IngestionStatus.IN_PROGRESS
        proxy.clear()
        found = await kit.completed(request)
    assert found.progress.reconnects == 1
    assert len(found.progress.gaps) == 1


async def test_a_camera_that_stays_away_ends_the_capture_in_time(kit: Kit, films: dict[str, Path]) -> None:
    with Camera(films["h264"], join="burst") as camera:
        request = await kit.submit(camera.url, capture_mode="continuous", capture_duration=4.0, fps=2.0, sampling="exact")
        await kit.until(request, lambda r: r.progress.stored >= 2)
        camera.kill()
        found = await kit.completed(request, 8)
    assert found.grid_start is not None
    assert found.completed_at is not None
    assert 3.5 <= found.completed_at.timestamp() - found.grid_start.timestamp() < 6
    assert found.progress.expected == 8
    assert set(found.progress.dropped) == {"camera_down"}
    assert found.progress.gaps[0].to is not None


async def cancel(kit: Kit, request: object, seconds: float = 1.5) -> IngestionResponse:
    began = time.monotonic()
    await kit.services.orchestrator.cancel(request, cameras=ALL_CAMERAS)  # type: ignore[arg-type]
    found = await kit.final(request, seconds)  # type: ignore[arg-type]
    assert time.monotonic() - began < seconds
    assert found.status is CANCELLED
    assert found.error is None
    return found


async def test_cancelling_a_running_capture_keeps_its_frames(kit: Kit, camera: Camera) -> None:
    request = await kit.submit(camera.url, capture_mode="continuous", fps=5.0, sampling="exact")  # without an end
    before = await kit.until(request, lambda r: r.progress.stored >= 7)
    found = await cancel(kit, request)
    assert found.progress.stored >= before.progress.stored
    assert set(found.progress.dropped) <= {"cancelled"}
    frames = await kit.frames(request)
    assert [frame.info.sequence for frame in frames] == list(range(len(frames)))
    assert len(frames) == found.progress.stored
    assert await kit.services.orchestrator.cancel(request, cameras=ALL_CAMERAS)  # final already: nothing changes
    assert (await kit.get(request)).updated_at == found.updated_at


@pytest.mark.parametrize("state", ["opening", "asking", "backing off", "stalled", "waiting for its moment"])
async def test_cancelling_in_every_state(kit: Kit, camera: Camera, state: str) -> None:
    from datetime import UTC, datetime, timedelta

    with FaultProxy(camera.port) as proxy:
        fields: dict[str, Any] = {"capture_mode": "continuous", "fps": 2.0}
        if state == "opening":
            proxy.freeze()
        elif state == "asking":
            proxy.black_hole()
        elif state == "backing off":
            proxy.refuse()
        elif state == "waiting for its moment":
            fields = {"capture_mode": "single_frame", "frame_timestamp": datetime.now(UTC) + timedelta(hours=2)}
        request = await kit.submit(proxy.url("h264"), **fields)
        if state == "stalled":
            await kit.until(request, lambda r: r.progress.stored > 0)
            proxy.freeze()
            await asyncio.sleep(0.3)
        elif state == "backing off":
            await kit.until(request, lambda r: r.error is not None)
        else:
            await kit.until(request, lambda r: r.status is IngestionStatus.IN_PROGRESS)
            await asyncio.sleep(0.1)
        found = await cancel(kit, request)
        assert found.progress.stored == (found.progress.expected - sum(found.progress.dropped.values()))
        proxy.thaw()


async def test_cancelling_a_pending_capture(
    backends: Backends, storage: StorageService, camera: Camera, reader: str, tmp_path: Path
) -> None:
    async with open_kit(await own_database(backends), storage, tmp_path, MAX_CONCURRENT_STREAMS=1, READER=reader) as kit:
        running = await kit.submit(camera.url, capture_mode="continuous", fps=1.0)
        await kit.until(running, lambda r: r.progress.stored > 0)
        waiting = await kit.submit(camera.url, unique(), capture_mode="continuous", fps=1.0)
        assert (await kit.get(waiting)).status is IngestionStatus.PENDING
        found = await cancel(kit, waiting, 0.5)
        assert (found.started_at, found.progress.expected) == (None, 0)
        hopeless = await kit.submit(f"rtsp://127.0.0.1:{free_port()}/x", unique(), capture_mode="continuous")
        await cancel(kit, running)
        await kit.until(hopeless, lambda r: r.error is not None)  # the room of the cancelled one
        await cancel(kit, hopeless)
