"""A capture is admitted in one statement: once, with its lease and its audit row, or not at all."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text

from models.access import ACTOR, ANONYMOUS, Actor
from models.schemas import RTSPIngestionRequest
from models.values import CaptureMode, NewCapture
from repositories.database import Database
from repositories.hot_reads import RegisteredCamera
from services.admission.admitted import NewCaptures
from services.idempotency.operation import Operation
from tests.conftest import Backends, migrated_database
from utils.exceptions import CameraDisabled, InvalidRequest
from utils.ids import new_id
from utils.secret_box import SecretBox, new_key

ADDED = text(
    "INSERT INTO camera_configurations (camera_id, rtsp_url, meta, calibration) "
    "VALUES (:id, 'x', '{\"a\": 1}', '{\"b\": 2}')"
)
REMOVED = text("DELETE FROM camera_configurations WHERE camera_id = :id")
COUNTS = text(
    """
    SELECT (SELECT count(*) FROM ingestion_requests WHERE id = :id), (SELECT count(*) FROM audit WHERE target = :id::text),
           (SELECT count(*) FROM capture_leases WHERE request_id = :id AND owner IS NULL)
""".replace(":id::text", "CAST(:id AS text)")
)

BLOCKED = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%held AS%'")


@pytest_asyncio.fixture
async def db(backends: Backends) -> AsyncIterator[Database]:
    database = Database(await migrated_database(backends.db, f"admit_{secrets.token_hex(5)}"), "trackshift-admit")
    yield database
    await database.close()


def pending(camera_id: str) -> NewCapture:
    return NewCapture(new_id(), camera_id, "single_frame", "x", {"fps": 1.0}, {"lap": 7}, owner="key:1")


async def counts(db: Database, row: NewCapture) -> tuple[int, ...]:
    """Requests, audit rows and free leases of that id."""
    async with db.reading() as uow:
        return tuple((await uow.session.execute(COUNTS, {"id": row.id})).one())


async def blocked(db: Database) -> bool:
    """Whether an admission waits for somebody's lock. One transaction sees the activity of one moment only."""
    async with db.reading() as uow:
        return bool(await uow.session.scalar(BLOCKED))


async def test_a_capture_is_admitted_once_however_often_it_is_sent(db: Database) -> None:
    row = pending("new")
    actor = Actor(uuid4(), "key:1", "key", "127.0.0.1", "trace", 202, "capture.submit", 60)
    token = ACTOR.set(actor)
    try:
        first = await db.admit_capture(row, "capture.submit", camera=None)
        again = await db.admit_capture(row, "capture.submit", camera=None)
    finally:
        ACTOR.reset(token)
    assert first is not None
    assert (first.id, first.status, first.meta, first.owner) == (row.id, "pending", {"lap": 7}, "key:1")
    assert again == first
    assert await counts(db, row) == (1, 1, 1)


async def test_a_capture_of_another_registration_than_the_cameras_is_not_stored(db: Database) -> None:
    async with db.unit_of_work() as uow:
        await uow.session.execute(ADDED, {"id": "there"})
    camera = await db.hot.camera("there")
    assert camera is not None
    row, gone = pending("there"), pending("gone")
    assert await db.admit_capture(row, "capture.submit", camera=None) is None
    assert await db.admit_capture(row, "capture.submit", camera=camera.version + 1) is None
    assert await db.admit_capture(gone, "capture.submit", camera=camera.version) is None
    assert await counts(db, row) == await counts(db, gone) == (0, 0, 0)
    assert await db.admit_capture(row, "capture.submit", camera=camera.version) is not None
    assert await counts(db, row) == (1, 0, 1)


async def test_a_camera_being_deleted_decides_before_its_capture_is_stored(db: Database) -> None:
    async with db.unit_of_work() as uow:
        await uow.session.execute(ADDED, {"id": "leaving"})
    found = await db.hot.camera("leaving")
    assert found is not None
    assert (found.row.meta, found.row.calibration, found.row.enabled) == ({"a": 1}, {"b": 2}, True)
    row = pending("leaving")
    async with db.unit_of_work() as uow:
        await uow.session.execute(REMOVED, {"id": "leaving"})
        waiting = asyncio.create_task(db.admit_capture(row, "capture.submit", camera=found.version))
        while not await blocked(db):
            assert not waiting.done()
    assert await waiting is None
    assert await counts(db, row) == (0, 0, 0)
    assert await db.hot.camera("leaving") is None


def asked(camera_id: str, url: str | None = None) -> RTSPIngestionRequest:
    return RTSPIngestionRequest(camera_id=camera_id, rtsp_url=url)


async def test_what_is_kept_of_a_camera_neither_refuses_nor_admits_what_its_row_does_not(db: Database) -> None:
    """Changed by another process, of which this one hears nothing."""
    box = SecretBox([new_key()])
    new = NewCaptures(db, box, default_fps=1.0)

    async def url_of(body: RTSPIngestionRequest) -> str:
        stored = (await new.add(body, ANONYMOUS, Operation(), 0)).row
        return box.open(stored.rtsp_url)

    async def change(text_: str) -> None:
        async with db.unit_of_work() as uow:
            await uow.session.execute(text(text_), {"id": "kept", "url": box.seal("rtsp://10.0.0.2/b")})

    with pytest.raises(InvalidRequest):
        await url_of(asked("kept"))  # not registered, and without a URL
    assert await url_of(asked("kept", "rtsp://10.0.0.1/a")) == "rtsp://10.0.0.1/a"
    await change("INSERT INTO camera_configurations (camera_id, rtsp_url) VALUES (:id, :url)")
    assert await url_of(asked("kept", "rtsp://10.0.0.2/b")) == "rtsp://10.0.0.2/b"  # taken for none: read, and kept now
    assert await url_of(asked("kept")) == "rtsp://10.0.0.2/b"
    await change("UPDATE camera_configurations SET enabled = false WHERE camera_id = :id")
    with pytest.raises(CameraDisabled):
        await url_of(asked("kept"))
    await change("UPDATE camera_configurations SET enabled = true, default_fps = 7, site = 'pits' WHERE camera_id = :id")
    body = asked("kept").model_copy(update={"capture_mode": CaptureMode.CONTINUOUS})
    found = await new.add(body, ANONYMOUS, Operation(), 0)
    assert (found.row.params["fps"], found.site) == (7, "pits")
    await change("DELETE FROM camera_configurations WHERE camera_id = :id")
    with pytest.raises(InvalidRequest):
        await url_of(asked("kept"))
    assert await url_of(asked("kept", "rtsp://10.0.0.3/c")) == "rtsp://10.0.0.3/c"


async def test_a_known_camera_is_not_read_again(db: Database) -> None:
    async with db.unit_of_work() as uow:
        await uow.session.execute(ADDED, {"id": "known"})
    new, reads = NewCaptures(db, SecretBox([new_key()]), default_fps=1.0), list[str]()
    read = db.hot.camera

    async def counted(camera_id: str) -> RegisteredCamera | None:
        reads.append(camera_id)
        return await read(camera_id)

    db.hot.camera = counted  # type: ignore[method-assign]
    for camera_id, url in (("known", None), ("known", None), ("none", "rtsp://10.0.0.1/a"), ("none", "rtsp://10.0.0.1/a")):
        await new.add(asked(camera_id, url), ANONYMOUS, Operation(), 0)
    assert reads == ["known"]
