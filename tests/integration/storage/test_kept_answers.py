"""Kept answers of hot reads on a real PostgreSQL: nobody reads what a commit has changed, whoever committed."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import pytest_asyncio

from models.access import ALL_CAMERAS, ANONYMOUS, CameraGrant
from models.entities import IngestionRequest
from models.values import FrameFilter, FrameRecord, SourceType, TimestampSource
from repositories.database import Database
from repositories.frames import Removal
from services.access.cursors import Cursors
from services.reads.queries import Queries
from services.storage_service.service import StorageService
from tests.conftest import SECRETS_KEY, Backends, migrated_database, unique
from tests.kits.uploads import upload_of
from utils.exceptions import RequestNotFound
from utils.ids import frame_id, new_id
from utils.metrics import KEPT_ANSWERS
from utils.secret_box import SecretBox

AT = datetime(2026, 5, 4, 13, 30, tzinfo=UTC)
ROUNDS = 12


@pytest_asyncio.fixture
async def both(backends: Backends) -> AsyncIterator[tuple[Database, Database]]:
    """Two processes' connections to one database."""
    own = await migrated_database(backends.db, f"kept_{secrets.token_hex(5)}")
    one, other = Database(own, "trackshift-kept"), Database(own, "trackshift-kept-writer")
    yield one, other
    await one.close()
    await other.close()


async def _stored(db: Database, camera: str, count: int) -> tuple[UUID, list[UUID]]:
    """An upload of `count` files: its id and its frames' ids."""
    row = IngestionRequest(id=new_id(), camera_id=camera, source_type="upload", meta={}, rejected=[])
    frames = []
    for index in range(count):
        at = AT + timedelta(seconds=index)
        frames.append(
            FrameRecord(
                frame_id=frame_id(row.id, index, at), request_id=row.id, camera_id=camera, source_type=SourceType.UPLOAD,
                sequence=index, storage_path=f"frames/{row.id}/{index}.jpg", timestamp=at,
                timestamp_source=TimestampSource.CLIENT, timestamp_uncertainty_ms=None, width=4, height=3, size_bytes=10,
                format="jpg", content_type="image/jpeg", sha256=f"{index:064x}", filename=f"{index}.jpg",
            )
        )  # fmt: skip
    await db.store_upload(upload_of(row, frames), "upload")
    return row.id, [each.frame_id for each in frames]


def _queries(db: Database, storage: StorageService) -> Queries:
    return Queries(db, storage, SecretBox([SECRETS_KEY]), cursors=Cursors(b"k"))


def _found(kind: str) -> float:
    return float(KEPT_ANSWERS.labels(kind=kind, found="yes")._value.get())


async def _hold(db: Database, frame: UUID, reason: str) -> None:
    assert await db.retry_until_known(lambda uow: uow.frames.hold(frame, reason, ALL_CAMERAS)) is not None


async def test_a_reader_never_sees_less_than_what_was_committed_when_it_began(
    both: tuple[Database, Database], storage: StorageService
) -> None:
    db, writer = both
    camera = unique()
    request_id, ids = await _stored(writer, camera, 20)
    queries = _queries(db, storage)
    committed, reads = 0, 0

    async def write() -> None:
        nonlocal committed
        for number in range(1, ROUNDS + 1):
            for each in ids[:3]:
                await _hold(writer, each, str(number))
            committed = number

    async def read(of_list: bool) -> None:
        nonlocal reads
        while (least := committed) < ROUNDS:
            if of_list:
                body = json.loads(await queries.frames_body(FrameFilter(camera_id=camera), 50, None, ANONYMOUS))["items"]
            else:
                body = json.loads(await queries.request_body(request_id, ANONYMOUS))["frames"]
            assert len(body) == 20
            for shown in body[:3]:
                assert int(shown["hold_reason"] or 0) >= least
            reads += 1

    hits = _found("frame")
    await asyncio.gather(write(), read(True), read(False), read(True))
    assert reads > ROUNDS
    assert _found("frame") - hits > reads * 10, "nothing was kept"


async def test_what_another_process_deletes_is_gone_at_once(
    both: tuple[Database, Database], storage: StorageService
) -> None:
    db, writer = both
    camera = unique()
    request_id, ids = await _stored(writer, camera, 3)
    queries = _queries(db, storage)
    for _ in range(2):  # the second answer is a kept one
        before = json.loads(await queries.request_body(request_id, ANONYMOUS))
        assert [each["frame_id"] for each in before["frames"]] == [str(each) for each in ids]
    assert before["frames_total"] == 3
    key = await writer.retry_until_known(lambda uow: uow.frames.begin_delete(ids[1], ALL_CAMERAS, pairs=False))
    assert key is not None
    for _ in range(2):
        after = json.loads(await queries.request_body(request_id, ANONYMOUS))
        assert [each["frame_id"] for each in after["frames"]] == [str(ids[0]), str(ids[2])]
        assert after["frames_total"] == 2
        listed = json.loads(await queries.frames_body(FrameFilter(camera_id=camera), 50, None, ANONYMOUS))["items"]
        assert [each["frame_id"] for each in listed] == [str(ids[0]), str(ids[2])]
    await writer.retry_until_known(lambda uow: uow.frames.finish_deletes([Removal(ids[1], key)]))
    assert json.loads(await queries.request_body(request_id, ANONYMOUS))["frames_total"] == 2


async def test_a_kept_answer_is_for_those_who_may_see_its_camera(
    both: tuple[Database, Database], storage: StorageService
) -> None:
    db, _ = both
    camera = unique()
    request_id, _ids = await _stored(db, camera, 2)
    queries = _queries(db, storage)
    hits = _found("request")
    for _ in range(2):
        await queries.request_body(request_id, ANONYMOUS)
    assert _found("request") - hits == 1
    alien = replace(ANONYMOUS, cameras=CameraGrant(("other",)))
    with pytest.raises(RequestNotFound):
        await queries.request_body(request_id, alien)
