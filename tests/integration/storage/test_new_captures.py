"""A capture is admitted in one statement: once, with its lease and its audit row, or not at all."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import text

from models.access import ACTOR, Actor
from models.entities import IngestionRequest
from repositories.database import Database
from tests.conftest import Backends, migrated_database
from utils.exceptions import CameraNotFound
from utils.ids import new_id

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


def pending(camera_id: str) -> IngestionRequest:
    return IngestionRequest(
        id=new_id(), camera_id=camera_id, source_type="rtsp", capture_mode="single_frame", status="pending", rtsp_url="x",
        params={"fps": 1.0}, meta={"lap": 7}, owner="key:1",
    )  # fmt: skip


async def counts(db: Database, row: IngestionRequest) -> tuple[int, ...]:
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
        first = await db.admit_capture(row, "capture.submit", registered=False)
        again = await db.admit_capture(row, "capture.submit", registered=False)
    finally:
        ACTOR.reset(token)
    assert (first.id, first.status, first.meta, first.owner) == (row.id, "pending", {"lap": 7}, "key:1")
    assert again == first
    assert await counts(db, row) == (1, 1, 1)


async def test_a_registered_camera_that_is_gone_gets_no_capture(db: Database) -> None:
    row = pending("gone")
    with pytest.raises(CameraNotFound):
        await db.admit_capture(row, "capture.submit", registered=True)
    assert await counts(db, row) == (0, 0, 0)


async def test_a_camera_being_deleted_decides_before_its_capture_is_stored(db: Database) -> None:
    async with db.unit_of_work() as uow:
        await uow.session.execute(ADDED, {"id": "leaving"})
    found = await db.hot.camera("leaving")
    assert found is not None
    assert (found.meta, found.calibration, found.enabled) == ({"a": 1}, {"b": 2}, True)
    row = pending("leaving")
    async with db.unit_of_work() as uow:
        await uow.session.execute(REMOVED, {"id": "leaving"})
        waiting = asyncio.create_task(db.admit_capture(row, "capture.submit", registered=True))
        while not await blocked(db):
            assert not waiting.done()
    with pytest.raises(CameraNotFound):
        await waiting
    assert await counts(db, row) == (0, 0, 0)
    assert await db.hot.camera("leaving") is None
