"""Uploads, snapshots and captures whose object the sweeper takes between its PUT and its row: the picture is PUT again."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from demo.camera import Camera
from models.access import ALL_CAMERAS, ANONYMOUS
from models.schemas import CameraCreate, SnapshotRequest, UploadIngestionRequest
from models.values import CaptureMode, ReceivedFile
from services.idempotency.operation import Operation
from services.runtime import Services
from services.storage_service.service import StorageService
from tests.conftest import Backends, unique
from tests.kits.capture_kit import SIZE, Kit, open_kit
from tests.kits.service_support import jpeg
from tests.kits.sweep_kit import Place, open_place


@pytest_asyncio.fixture
async def place(backends: Backends) -> AsyncIterator[Place]:
    async with open_place(backends, f"condemned-{secrets.token_hex(5)}") as made:
        yield made


@pytest_asyncio.fixture
async def kit(place: Place, tmp_path: Path) -> AsyncIterator[Kit]:
    async with open_kit(place.backends, place.storage, tmp_path) as made:
        yield made


class Taking:
    """Sweeps right behind the first `times` PUTs of a service's store: the keys are condemned, the objects gone."""

    def __init__(self, place: Place, services: Services, times: int = 1) -> None:
        self.place, self.left, self.taken = place, times, set[str]()
        self.store: StorageService = services.queries._storage
        self.real = {name: getattr(self.store, name) for name in ("put", "put_file")}
        for name in self.real:
            setattr(self.store, name, self._putting(name))

    def _putting(self, name: str) -> Any:
        async def put(key: str, *rest: Any) -> None:
            await self.real[name](key, *rest)
            if self.left > 0:
                self.left -= 1
                async with self.place.database.unit_of_work() as uow:
                    assert await uow.object_keys.condemn([key]) == [key]
                await self.place.storage.delete(key)
                self.taken.add(key)

        return put


async def test_an_upload(kit: Kit, place: Place, tmp_path: Path) -> None:
    taking = Taking(place, kit.services, times=2)
    files = []
    for n in range(3):
        data = jpeg((64, 48))
        path = tmp_path / f"{n}.jpg"
        path.write_bytes(data)
        files.append(ReceivedFile(n, path.name, "image/jpeg", path, len(data), hashlib.sha256(data).hexdigest()))
    form = UploadIngestionRequest(camera_id=unique())
    operation = Operation()
    await kit.services.orchestrator.ingest_upload(form, files, operation)
    request_id = operation.request_id
    answer = await kit.get(request_id)
    assert (answer.status, answer.progress.stored, answer.progress.expected) == ("completed", 3, 3)
    assert len(taking.taken) == 2
    assert await place.keys() == {frame.storage_path for frame in answer.frames}
    assert not taking.taken & await place.keys()
    for frame, file in zip(answer.frames, files, strict=True):
        assert await place.storage.get(frame.storage_path) == file.path.read_bytes()


async def test_a_snapshot_and_a_capture(kit: Kit, place: Place, tmp_path: Path) -> None:
    with Camera(size=SIZE, join="burst") as camera:
        url = camera.url
        camera_id = unique()
        await kit.services.cameras.create(CameraCreate(camera_id=camera_id, rtsp_url=url, keep_open=True), who=ANONYMOUS)

        async with asyncio.timeout(20):
            while (
                stream := (await kit.services.cameras.get(camera_id, ALL_CAMERAS)).stream
            ) is None or stream.ring_seconds < 0.3:
                await asyncio.sleep(0.05)
        taking = Taking(place, kit.services)
        taken = await kit.services.snapshots.take(camera_id, SnapshotRequest(), who=ANONYMOUS)
        assert len(taking.taken) == 1
        assert taken.storage_path not in taking.taken
        data = await place.storage.get(taken.storage_path)
        assert hashlib.sha256(data).hexdigest() == taken.sha256

        taking.left = 1
        request_id = await kit.submit(url, camera_id, capture_mode=CaptureMode.CONTINUOUS, capture_duration=1.0, fps=3)
        answer = await kit.completed(request_id)
        assert len(taking.taken) == 2
        assert answer.progress.stored == 3
        assert await place.keys() == {taken.storage_path} | {frame.storage_path for frame in answer.frames}
