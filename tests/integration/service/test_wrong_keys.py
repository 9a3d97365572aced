"""A process whose SECRETS__KEYS are not the database's: it claims nothing, and says so."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from api.http.errors import TABLE
from demo.camera import Camera
from models.access import ANONYMOUS
from models.schemas import CameraCreate, RTSPIngestionRequest
from models.values import IngestionStatus
from repositories.database import Database
from repositories.migrations.run import upgrade
from services.housekeeping.key_guard import KeyGuard
from services.housekeeping.secrets import reseal_all
from services.runtime import open_services
from services.storage_service.service import StorageService
from tests.conftest import Backends, unique
from tests.kits.capture_kit import FAST, Kit
from tests.kits.service_support import own_database
from tests.kits.takeover_kit import fetch
from utils.exceptions import SecretKeysMissing
from utils.metrics import SECRET_KEYS_MISSING
from utils.secret_box import SecretBox, key_id, new_key

POLLS = 2.5  # seconds: several polls for captures that nobody runs


@pytest.mark.timeout(300)  # three starts of services
async def test_a_process_with_other_keys_claims_nothing_and_says_so(
    backends: Backends, storage: StorageService, tmp_path: Path
) -> None:
    own = await own_database(backends)
    right, wrong, newest = new_key(), new_key(), new_key()

    def settings(name: str, *keys: str) -> Any:
        (tmp_path / name).mkdir()
        return own.settings(tmp_path / name, RTSP=FAST, SECRETS={"KEYS": list(keys)})

    with Camera(size=(320, 180), fps=15, bitrate=300_000) as camera:
        camera_id = unique()
        async with open_services(settings("right", right)) as first:
            await first.cameras.create(CameraCreate(camera_id=camera_id, rtsp_url=camera.url), who=ANONYMOUS)
            kit = Kit(first, storage)
            request = await kit.submit(camera.url, capture_mode="continuous", fps=5.0)
            await kit.until(request, lambda r: r.progress.stored > 0, 60)
            assert (await first.health.check()).checks["secrets"].status == "healthy"
        # It was stopped in good order: anybody may go on with the capture at once.
        with capture_logs() as lines:
            async with open_services(settings("wrong", wrong)) as second:
                health = await second.health.check()
                assert health.status == "degraded"
                assert key_id(right) in (health.checks["secrets"].detail or "")
                assert SECRET_KEYS_MISSING._value.get() == 1
                body = CameraCreate(camera_id=unique(), rtsp_url=camera.url)
                asked: list[dict[str, Any]] = [{"camera_id": camera_id}, {"camera_id": unique(), "rtsp_url": camera.url}]
                with pytest.raises(SecretKeysMissing):
                    await second.cameras.create(body, who=ANONYMOUS)
                for each in asked:
                    single = RTSPIngestionRequest.model_validate({"capture_mode": "single_frame", **each})
                    with pytest.raises(SecretKeysMissing):
                        await second.orchestrator.submit_capture(single, who=ANONYMOUS)
                assert (await second.cameras.get(camera_id, ANONYMOUS.cameras)).camera_id == camera_id
                await asyncio.sleep(POLLS)
                [lease] = await fetch(own.db, "SELECT owner, epoch FROM capture_leases WHERE request_id = $1", request)
                assert (lease["owner"], lease["epoch"]) == (None, 1)
        assert TABLE[SecretKeysMissing.code][0] == 503
        [told] = [line for line in lines if line["event"] == "secret_keys_missing"]
        assert told["key_ids"] == [key_id(right)]
        assert not any(key in str(lines) for key in (right, wrong))
        # Rotated: a new key first, the former one beside it.
        async with open_services(settings("rotated", newest, right)) as third:
            kit = Kit(third, storage)
            before = (await kit.get(request)).progress.stored
            await kit.until(request, lambda r: r.progress.stored > before, 60)
            assert (await third.health.check()).checks["secrets"].status == "healthy"
            await third.orchestrator.cancel(request, cameras=ANONYMOUS.cameras)
            ended = await kit.final(request)
            assert ended.status is IngestionStatus.CANCELLED


async def test_the_first_on_a_database_decides_and_a_rotation_gives_up_the_old_key(backends: Backends) -> None:
    """Guards side by side on an empty database; then `secrets rotate`, and `forget` for a key that is lost."""
    own = await own_database(backends)

    await upgrade(own.db)
    database = Database(own.db)
    old, new = new_key(), new_key()
    boxes = [SecretBox([key]) for key in (old, new, new_key())]
    await asyncio.gather(*(KeyGuard(database, box).poll() for box in boxes))
    assert sorted(len(box.missing) for box in boxes) == [0, 1, 1]
    winner = next(box for box in boxes if not box.missing)
    async with database.unit_of_work() as uow:
        assert list(await uow.secrets.canaries()) == [winner.key_ids[0]]
        assert await uow.secrets.forget_canary(winner.key_ids[0])
    await KeyGuard(database, boxes[0]).poll()  # forgotten: the next one decides
    assert not boxes[0].missing
    both = SecretBox([new, old])
    await KeyGuard(database, both).poll()
    assert not both.missing
    await KeyGuard(database, boxes[0]).poll()
    assert boxes[0].missing == {key_id(new)}  # a process that was not told of the new key
    with pytest.raises(SecretKeysMissing):
        boxes[0].seal("rtsp://camera.example/x")
    only_new = SecretBox([new])
    await KeyGuard(database, only_new).poll()
    assert only_new.missing == {key_id(old)}
    await reseal_all(database, both)
    await KeyGuard(database, only_new).poll()
    assert not only_new.missing
    async with database.unit_of_work() as uow:  # the same id, another canary: damaged, or a forgery
        await uow.secrets.write_canary(key_id(new), SecretBox([old]).seal("canary"))
    await KeyGuard(database, only_new).poll()
    assert only_new.missing == {key_id(new)}
    await database.close()
