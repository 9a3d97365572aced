"""From the spool into a real store and a real database: order, idempotence, grids, and what can never be stored."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest_asyncio
from sqlalchemy import text

from config import SpoolSettings
from models.entities import IngestionRequest
from models.values import CaptureError, CaptureMode, CaptureParams, Claim, DropReason, IngestionStatus, Sampling, Transport
from repositories.database import Database
from services.spool.replay import Replay
from services.spool.spool import Spool
from services.storage_service.service import StorageService
from tests.conftest import Backends, migrated_database
from tests.kits.spool_frames import FPS, GRID, frame_of, picture
from utils.ids import new_id


@pytest_asyncio.fixture(scope="module")
async def db(backends: Backends) -> AsyncIterator[Database]:
    own = await migrated_database(backends.db, f"spool_{secrets.token_hex(5)}")
    made = Database(own, "trackshift-spool")
    yield made
    await made.close()


async def add_capture(db: Database, *, grid_start: datetime | None = GRID, max_frames: int | None = None) -> Claim:
    params = CaptureParams(CaptureMode.CONTINUOUS, FPS, None, Sampling.EXACT, max_frames, 90, Transport.TCP)
    row = IngestionRequest(
        id=new_id(), camera_id="cam", source_type="rtsp", capture_mode="continuous", status="pending",
        rtsp_url="rtsp://127.0.0.1/x", params=params.to_json(), meta={},
    )  # fmt: skip
    async with db.unit_of_work() as uow:
        await uow.requests.add_capture(row)
        await uow.session.execute(
            text(
                "UPDATE capture_leases SET owner = 'me', epoch = 1, expires_at = now() + interval '20 s', ttl = 20"
                " WHERE request_id = :id"
            ),
            {"id": row.id},
        )
        claim = Claim(row.id, 1, resumed=False)
        await uow.captures.start(claim)
        if grid_start is not None:
            await uow.captures.set_grid_start(claim, grid_start, None)
    return claim


async def finish(db: Database, claim: Claim, expected: int) -> None:
    error = CaptureError("read_timeout", "nothing came", True, GRID)
    async with db.unit_of_work() as uow:
        await uow.captures.finish(
            claim, IngestionStatus.COMPLETED, expected=expected, rest=DropReason.SPOOLED, error=error, gap_end=GRID
        )


async def row_of(db: Database, request_id: UUID) -> IngestionRequest:
    async with db.unit_of_work() as uow:
        row = await uow.session.get(IngestionRequest, request_id)
        assert row is not None
        assert row.expected == row.stored + row.in_flight + sum(row.dropped().values())
        return row


async def rows_of(db: Database, request_id: UUID) -> dict[int, tuple[str, str, datetime]]:
    """By slot: key, SHA-256, when it was stored."""
    async with db.unit_of_work() as uow:
        found = await uow.session.execute(
            text("SELECT sequence, storage_path, sha256, stored_at FROM frames WHERE request_id = :id ORDER BY sequence"),
            {"id": request_id},
        )
        return {row.sequence: (row.storage_path, row.sha256, row.stored_at) for row in found}


async def opened(path: Path) -> Spool:
    spool = Spool(SpoolSettings(DISK_RESERVE=0), path)
    await spool.open()
    return spool


async def put(spool: Spool, request_id: UUID, slot: int, *, grid_start: datetime = GRID, **more: object) -> str:
    """Spools a frame; returns the key that it was to have."""
    data = picture()
    frame = replace(frame_of(request_id, slot, data, grid_start=grid_start), **more)  # type: ignore[arg-type]
    assert await spool.put(frame, data, grid_start=grid_start, fps=FPS, epoch=1)
    return frame.storage_path


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def empty(spool: Spool, db: Database, storage: StorageService, *, first: Replay | None = None) -> None:
    """Replays until nothing is left, and closes."""
    replay = first or Replay(spool, db, storage, lambda: False)
    replay.start()
    try:
        await until(lambda: not len(spool.index) and not spool._abandoned and not replay._running)
    finally:
        await replay.stop()
        await spool.close()


async def test_a_replay_stores_under_a_new_key_and_moves_the_slots(
    db: Database, storage: StorageService, tmp_path: Path
) -> None:
    claim, spool = await add_capture(db), await opened(tmp_path)
    told: list[tuple[int, str]] = []
    spool.follow(claim.request_id, lambda *what: told.append(what))
    former = [await put(spool, claim.request_id, slot) for slot in range(4)]
    await finish(db, claim, 4)
    assert (await row_of(db, claim.request_id)).status == "failed"
    await empty(spool, db, storage)
    row, frames = await row_of(db, claim.request_id), await rows_of(db, claim.request_id)
    assert (row.status, row.stored, row.dropped(), row.in_flight) == ("failed", 4, {}, 0)
    for slot, (key, sha256, _) in frames.items():
        # An earlier PUT under the record's key may still land, or have been condemned: that key is nobody's.
        assert key != former[slot]
        assert key.rsplit("-", 1)[0] == former[slot].rsplit("-", 1)[0]
        assert await storage.head(former[slot]) is None
        assert hashlib.sha256(await storage.get(key)).hexdigest() == sha256
    assert sorted(told) == sorted((slot, what) for slot in range(4) for what in ("spooled", "stored"))


class Sweeping:
    """A store right behind whose first PUTs the sweeper goes: their keys are condemned, their objects gone."""

    def __init__(self, storage: StorageService, db: Database, times: int) -> None:
        self.storage, self.db, self.left, self.taken = storage, db, times, set[str]()

    async def put(self, key: str, *rest: Any) -> None:
        await self.storage.put(key, *rest)
        if self.left:
            self.left -= 1
            async with self.db.unit_of_work() as uow:
                assert await uow.object_keys.condemn([key]) == [key]
            await self.storage.delete(key)
            self.taken.add(key)


async def test_a_key_that_the_sweeper_takes_during_the_replay_is_replaced(
    db: Database, storage: StorageService, tmp_path: Path
) -> None:
    claim, spool = await add_capture(db), await opened(tmp_path)
    for slot in range(2):
        await put(spool, claim.request_id, slot)
    await finish(db, claim, 2)
    sweeping = Sweeping(storage, db, times=3)
    await empty(spool, db, storage, first=Replay(spool, db, cast("StorageService", sweeping), lambda: False))
    assert len(sweeping.taken) == 3
    row, frames = await row_of(db, claim.request_id), await rows_of(db, claim.request_id)
    assert (row.stored, row.dropped()) == (2, {})
    for key, sha256, _ in frames.values():
        assert key not in sweeping.taken
        assert hashlib.sha256(await storage.get(key)).hexdigest() == sha256


async def test_a_replay_that_died_before_it_removed_its_record_is_a_no_op(
    db: Database, storage: StorageService, tmp_path: Path
) -> None:
    claim, spool = await add_capture(db), await opened(tmp_path / "a")
    await put(spool, claim.request_id, 0)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    await empty(spool, db, storage)
    before = await rows_of(db, claim.request_id)
    await empty(await opened(tmp_path / "b"), db, storage)
    assert await rows_of(db, claim.request_id) == before
    row = await row_of(db, claim.request_id)
    assert (row.stored, row.expected) == (1, 1)


async def test_what_can_never_be_stored_goes_to_dead_and_blocks_no_other(
    db: Database, storage: StorageService, tmp_path: Path
) -> None:
    claim, over = await add_capture(db), await add_capture(db)
    await finish(db, over, 1)
    spool = await opened(tmp_path)
    nobody = new_id()
    await put(spool, nobody, 0)  # 23503
    await put(spool, claim.request_id, 0, width=10**12)  # 22003
    await put(spool, claim.request_id, 1)
    await put(spool, claim.request_id, 2, width=0)  # 23514
    await put(spool, claim.request_id, 3, camera_id="../x")
    await put(spool, claim.request_id, 5)
    await put(spool, over.request_id, 0)
    await put(spool, over.request_id, 9)  # it ended without this slot
    damaged = next(path for path in spool.folder.records.iterdir() if "0000000005" in path.name)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    await put(spool, claim.request_id, 6)
    began = time.monotonic()
    await empty(spool, db, storage)
    assert time.monotonic() - began < 5
    assert sorted(await rows_of(db, claim.request_id)) == [1, 6]
    row = await row_of(db, claim.request_id)
    assert (row.expected, row.stored, row.dropped(), row.in_flight) == (7, 2, {"spool_full": 4}, 1)
    assert (await row_of(db, over.request_id)).stored == 1
    assert len(list((tmp_path / "dead").iterdir())) == 6
    assert list((tmp_path / "records").iterdir()) == []


async def test_five_hundred_records_of_one_request_do_not_delay_five_of_another(
    db: Database, storage: StorageService, tmp_path: Path
) -> None:
    many, few = await add_capture(db), await add_capture(db)
    spool = await opened(tmp_path)
    for slot in range(500):
        await put(spool, many.request_id, slot)
    for slot in range(5):
        await put(spool, few.request_id, slot)
    began = time.monotonic()
    replay = Replay(spool, db, storage, lambda: False)
    replay.start()
    await until(lambda: not spool.index.holds(few.request_id))
    among = (await row_of(db, many.request_id)).stored
    await until(lambda: not len(spool.index), 60)
    print(f"\n505 records in {time.monotonic() - began:.1f} s; {among} of the 500 were stored when the 5 were")
    await replay.stop()
    await spool.close()
    assert among < 30
    frames = await rows_of(db, many.request_id)
    assert sorted(frames) == list(range(500))
    order = sorted(frames, key=lambda slot: frames[slot][2])  # oldest first, four at once: a slow PUT is overtaken
    assert max(abs(slot - rank) for rank, slot in enumerate(order)) < 40


async def test_a_grid_that_was_never_saved_is_the_spooled_frames(
    db: Database, storage: StorageService, tmp_path: Path
) -> None:
    claim, spool = await add_capture(db, grid_start=None), await opened(tmp_path)
    await put(spool, claim.request_id, 3)
    await spool.close()
    spool = await opened(tmp_path)
    replay = Replay(spool, db, storage, lambda: False)
    await replay.restore_grids()
    async with db.unit_of_work() as uow:  # the capture, claimed after that, comes late with its own
        assert await uow.captures.set_grid_start(claim, GRID + timedelta(seconds=9), None) == GRID
    await empty(spool, db, storage, first=replay)
    assert sorted(await rows_of(db, claim.request_id)) == [3]


async def test_on_another_grid_frames_have_the_slots_of_their_times(
    db: Database, storage: StorageService, tmp_path: Path
) -> None:
    """Two seconds and a bit before the grid that holds: slots 0 to 3 were before it, 4 is its first."""
    theirs = GRID - timedelta(seconds=2.1)
    claim, spool = await add_capture(db), await opened(tmp_path)
    for slot in range(8):
        await put(spool, claim.request_id, slot, grid_start=theirs)
    await empty(spool, db, storage)
    frames = await rows_of(db, claim.request_id)
    assert sorted(frames) == [0, 1, 2, 3]
    assert len(list((tmp_path / "dead").iterdir())) == 4
    async with db.unit_of_work() as uow:
        found = await uow.session.execute(
            text("SELECT id, sequence, capture_timestamp FROM frames WHERE request_id = :id"), {"id": claim.request_id}
        )
        for row in found:
            assert abs((row.capture_timestamp - GRID).total_seconds() - row.sequence / FPS) < 0.5 / FPS
            assert row.id == frame_of(claim.request_id, row.sequence, b"xx").frame_id


async def test_what_comes_beyond_max_frames_is_surplus(db: Database, storage: StorageService, tmp_path: Path) -> None:
    claim, spool = await add_capture(db, max_frames=2), await opened(tmp_path)
    for slot in range(4):
        await put(spool, claim.request_id, slot)
    await finish(db, claim, 5)
    await empty(spool, db, storage)
    row = await row_of(db, claim.request_id)
    assert (row.stored, row.dropped()) == (2, {"surplus": 2, "spooled": 1})


async def test_what_the_spool_gave_up_is_told_the_row(db: Database, storage: StorageService, tmp_path: Path) -> None:
    claim, spool = await add_capture(db), await opened(tmp_path)
    for slot in range(3):
        await put(spool, claim.request_id, slot)
    await finish(db, claim, 3)
    oldest = spool.index.oldest
    assert oldest is not None
    await spool.remove(oldest, "dropped", "age")
    await empty(spool, db, storage)
    row = await row_of(db, claim.request_id)
    assert (row.stored, row.dropped()) == (2, {"spool_full": 1})
