"""The repositories on a real PostgreSQL: the ledger against an oracle, leases, cancels, pages, deletes.

They have a database of their own: no service of another test claims their captures.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import event, text

import repositories.hot_reads
from models.access import ALL_CAMERAS, ANONYMOUS, Principal
from models.entities import IngestionRequest, count_slots, dropped_column
from models.schemas import FramePage
from models.values import (
    FINAL_STATUSES,
    CaptureError,
    CaptureMode,
    CaptureParams,
    Claim,
    DropReason,
    FrameFilter,
    FrameRecord,
    IngestionStatus,
    Phase,
    QualityVerdict,
    RequestFilter,
    Sampling,
    SourceInfo,
    SourceType,
    TimestampSource,
    Transport,
)
from repositories.database import Database, UnitOfWork
from repositories.frames import Removal
from repositories.hot_reads import HotReads
from repositories.leases import ProcessShares, Renewed
from repositories.ledger import Recorded, multirange
from services.access.cursors import Cursors
from services.reads.queries import Queries
from services.storage_service.service import StorageService
from tests.conftest import SECRETS_KEY, Backends, migrated_database, unique
from tests.kits.uploads import upload_of
from utils.exceptions import DatabaseUnavailable, FrameNotFound, InvalidRequest, LeaseLost
from utils.ids import frame_id, new_id
from utils.metrics import FRAMES_DROPPED
from utils.secret_box import SecretBox

AT = datetime(2026, 5, 4, 13, 30, tzinfo=UTC)
TTL = 30.0
SHA = hashlib.sha256(b"x").hexdigest()


@pytest_asyncio.fixture(scope="module")
async def db(backends: Backends) -> AsyncIterator[Database]:
    own = await migrated_database(backends.db, f"repositories_{secrets.token_hex(5)}")
    made = Database(own, "trackshift-repositories")
    yield made
    await made.close()


async def list_frames(queries: Queries, wanted: FrameFilter, limit: int, cursor: str | None, who: Principal) -> FramePage:
    return FramePage.model_validate_json(await queries.frames_body(wanted, limit, cursor, who))


def capture_row(camera_id: str = "cam", max_frames: int | None = None) -> IngestionRequest:
    params = CaptureParams(CaptureMode.CONTINUOUS, 1.0, None, Sampling.AUTO, max_frames, 90, Transport.TCP)
    return IngestionRequest(
        id=new_id(), camera_id=camera_id, source_type="rtsp", capture_mode="continuous", status="pending",
        rtsp_url="rtsp://127.0.0.1/x", params=params.to_json(), meta={},
    )  # fmt: skip


def upload_row(camera_id: str) -> IngestionRequest:
    return IngestionRequest(id=new_id(), camera_id=camera_id, source_type="upload", meta={}, rejected=[])


def frame(request_id: UUID, slot: int, *, camera_id: str = "cam", sha256: str = SHA, **more: Any) -> FrameRecord:
    """What a capture would store for a slot; every call is another attempt, with a key of its own."""
    at = AT + timedelta(seconds=slot)
    base = FrameRecord(
        frame_id=frame_id(request_id, slot, at), request_id=request_id, camera_id=camera_id, source_type=SourceType.RTSP,
        sequence=slot, storage_path=f"frames/{request_id}/{slot}-{secrets.token_hex(4)}.jpg", timestamp=at,
        timestamp_source=TimestampSource.RECEIPT, timestamp_uncertainty_ms=5.0, width=4, height=3, size_bytes=10,
        format="jpg", content_type="image/jpeg", sha256=sha256,
    )  # fmt: skip
    return replace(base, **more)


async def add_capture(
    db: Database, camera_id: str = "cam", max_frames: int | None = None, principal: str | None = None
) -> UUID:
    row = capture_row(camera_id, max_frames)
    row.owner = principal
    async with db.unit_of_work() as uow:
        await uow.requests.add_capture(row)
    return row.id


async def take(db: Database, request_id: UUID, owner: str = "me") -> Claim:
    """Makes `owner` the newest owner of this very capture, and marks it as running."""
    async with db.unit_of_work() as uow:
        epoch = await uow.session.scalar(
            text(
                "UPDATE capture_leases SET owner = :owner, epoch = epoch + 1, expires_at = now() + interval '20 s', ttl = 20"
                " WHERE request_id = :id RETURNING epoch"
            ),
            {"owner": owner, "id": request_id},
        )
        claim = Claim(request_id, int(epoch or 0), resumed=False)
        await uow.captures.start(claim)
    return claim


async def record(
    db: Database,
    request_id: UUID,
    frames: Iterable[FrameRecord] = (),
    drops: dict[DropReason, Iterable[int]] | None = None,
    expected: int = 0,
) -> list[Recorded]:
    async with db.unit_of_work() as uow:
        return await uow.ledger.record(request_id, list(frames), drops or {}, expected)


async def finish(
    db: Database, claim: Claim, status: IngestionStatus = IngestionStatus.COMPLETED, *, expected: int = 0,
    rest: DropReason = DropReason.CAMERA_DOWN,
) -> IngestionStatus:  # fmt: skip
    error = CaptureError("read_timeout", "nothing came", True, AT)
    async with db.unit_of_work() as uow:
        return await uow.captures.finish(claim, status, expected=expected, rest=rest, error=error, gap_end=AT)


async def row_of(db: Database, request_id: UUID) -> IngestionRequest:
    async with db.unit_of_work() as uow:
        row = await uow.requests.get(request_id)
        assert row is not None
        return row


def slots_by_reason(row: IngestionRequest) -> dict[int, DropReason]:
    """Every dropped slot; asserts that none is dropped twice."""
    found: dict[int, DropReason] = {}
    for reason in DropReason:
        for item in getattr(row, dropped_column(reason)):
            for slot in range(item.lower, item.upper):
                assert slot not in found, f"slot {slot} is dropped as {found[slot]} and as {reason}"
                found[slot] = reason
    return found


async def assert_ledger(db: Database, request_id: UUID) -> IngestionRequest:
    """The identity of the contract, and that the counters are those of the rows."""
    async with db.unit_of_work() as uow:
        await uow.session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        row = await uow.requests.get(request_id)
        stored = await uow.frames.sequences(request_id)
    assert row is not None
    dropped = slots_by_reason(row)
    assert row.expected == row.stored + row.in_flight + sum(row.dropped().values())
    assert len(dropped) == sum(row.dropped().values())
    assert row.in_flight >= 0
    assert row.stored == len(stored)
    assert not stored & set(dropped)
    assert all(slot < row.expected for slot in stored | set(dropped))
    if IngestionStatus(row.status) in FINAL_STATUSES:
        assert row.in_flight == 0
        assert row.completed_at is not None
    return row


# -- the ledger --------------------------------------------------------------------------------------------------


def test_multiranges() -> None:
    assert multirange([]) == "{}"
    assert multirange([3]) == "{[3,4)}"
    assert multirange([5, 1, 2, 2, 3, 9]) == "{[1,4),[5,6),[9,10)}"


async def test_two_owners_of_one_slot_make_one_row(db: Database) -> None:
    request_id = await add_capture(db)
    mine = [frame(request_id, slot, sha256=hashlib.sha256(b"mine%d" % slot).hexdigest()) for slot in range(20)]
    theirs = [frame(request_id, slot, sha256=hashlib.sha256(b"theirs%d" % slot).hexdigest()) for slot in range(20)]
    batches = [
        record(db, request_id, chunk, expected=20)
        for frames in (mine, theirs) for chunk in (frames[:7], frames[7:14], frames[14:])
    ]  # fmt: skip
    outcomes = [item for answer in await asyncio.gather(*batches) for item in answer]
    row = await assert_ledger(db, request_id)
    assert (row.expected, row.stored, row.in_flight) == (20, 20, 0)
    by_slot: dict[int, list[Recorded]] = {}
    for item in outcomes:
        by_slot.setdefault(item.sequence, []).append(item)
    async with db.unit_of_work() as uow:
        rows = {found.sequence: found for found in await uow.frames.of_request(request_id, newest_first=False, limit=100)}
    assert len(rows) == 20
    given = {item.storage_path: item for item in mine + theirs}
    for slot, pair in by_slot.items():
        assert sorted(item.outcome for item in pair) == ["exists", "stored"]
        assert {item.storage_path for item in pair} == {rows[slot].storage_path}  # the loser learns the winner's key
        assert rows[slot].sha256 == given[rows[slot].storage_path].sha256
        assert rows[slot].id == given[rows[slot].storage_path].frame_id


async def test_recording_again_changes_nothing(db: Database) -> None:
    """Rule 4: a COMMIT whose outcome is unknown is run again."""
    request_id = await add_capture(db)
    frames = [frame(request_id, slot) for slot in (0, 1, 4)]
    drops: dict[DropReason, Iterable[int]] = {DropReason.NO_PICTURE: [2], DropReason.QUEUE_FULL: [3]}
    first = await record(db, request_id, frames, drops, 6)
    before = await assert_ledger(db, request_id)
    again = await record(db, request_id, frames, drops, 6)
    after = await assert_ledger(db, request_id)
    assert [item.outcome for item in first] == ["stored"] * 3
    assert [(item.outcome, item.storage_path) for item in again] == [("exists", one.storage_path) for one in frames]
    for name in ("expected", "stored", "in_flight", "duplicates", "last_frame_at"):
        assert getattr(before, name) == getattr(after, name)
    assert before.dropped() == after.dropped() == {"no_picture": 1, "queue_full": 1}
    assert before.in_flight == 1


async def test_a_late_frame_of_a_dropped_slot_moves_it_also_after_the_end(db: Database) -> None:
    request_id = await add_capture(db)
    claim = await take(db, request_id)
    await record(db, request_id, [frame(request_id, 0)], {DropReason.SPOOLED: [1, 2, 3]}, 5)
    assert await finish(db, claim, expected=5, rest=DropReason.SPOOL_FULL) is IngestionStatus.COMPLETED
    row = await assert_ledger(db, request_id)
    assert row.dropped() == {"spooled": 3, "spool_full": 1}
    completed_at = row.completed_at
    late = [frame(request_id, slot) for slot in (2, 4, 0, 5)]
    answers = await record(db, request_id, late, {DropReason.REJECTED: [9]}, 50)
    assert {item.sequence: item.outcome for item in answers} == {0: "exists", 2: "stored", 4: "stored", 5: "late"}
    row = await assert_ledger(db, request_id)
    assert (row.status, row.expected, row.stored, row.completed_at) == ("completed", 5, 3, completed_at)
    assert row.dropped() == {"spooled": 2}
    async with db.unit_of_work() as uow:
        assert await uow.frames.sequences(request_id) == {0, 2, 4}


async def test_max_frames_is_a_limit_whatever_comes_late(db: Database) -> None:
    request_id = await add_capture(db, max_frames=3)
    claim = await take(db, request_id)
    answers = await record(db, request_id, [frame(request_id, slot) for slot in range(5)], expected=6)
    assert [item.outcome for item in answers] == ["stored"] * 3 + ["surplus"] * 2
    row = await assert_ledger(db, request_id)
    assert row.dropped() == {"surplus": 2}
    await finish(db, claim, expected=6, rest=DropReason.SPOOLED)
    answers = await record(db, request_id, [frame(request_id, slot) for slot in (3, 5)], expected=6)
    assert [item.outcome for item in answers] == ["surplus", "surplus"]
    row = await assert_ledger(db, request_id)
    assert row.stored == 3
    assert row.dropped() == {"surplus": 3}  # what was spooled came, and came too late


@pytest.mark.parametrize("final", [False, True])
async def test_slots_that_the_spool_gives_up_are_spool_full(db: Database, final: bool) -> None:
    request_id = await add_capture(db)
    claim = await take(db, request_id)
    await record(db, request_id, [frame(request_id, 0)], {DropReason.NO_PICTURE: [1], DropReason.SPOOLED: [2]}, 3)
    if final:
        await finish(db, claim, expected=5, rest=DropReason.SPOOLED)
    for _ in range(2):
        async with db.one_statement() as uow:
            await uow.ledger.abandon(request_id, [0, 1, 2, 3, 7])
    row = await assert_ledger(db, request_id)
    assert row.stored == 1
    if final:
        assert row.dropped() == {"no_picture": 1, "spool_full": 2, "spooled": 1}
    else:  # 7 has come due, though the row had not been told
        assert row.dropped() == {"no_picture": 1, "spool_full": 3}
        assert (row.expected, row.in_flight) == (8, 3)
    assert [one.outcome for one in await record(db, request_id, [frame(request_id, 2)])] == ["stored"]  # it came after all
    async with db.one_statement() as uow:
        await uow.ledger.abandon(new_id(), [1])  # of no request: nothing to tell


async def test_a_grid_is_adopted_once(db: Database) -> None:
    request_id = await add_capture(db)
    async with db.unit_of_work() as uow:
        assert await uow.requests.adopt_grid(request_id, AT) == AT
        assert await uow.requests.adopt_grid(request_id, AT + timedelta(seconds=1)) == AT
        assert await uow.requests.adopt_grid(new_id(), AT) is None


async def test_a_condemned_key_is_refused_and_the_slot_stays_open(db: Database) -> None:
    request_id = await add_capture(db)
    lost = frame(request_id, 0)
    async with db.unit_of_work() as uow:
        condemn = text("INSERT INTO object_keys (key, state) VALUES (:key, 'condemned')")
        await uow.session.execute(condemn, {"key": lost.storage_path})
    answers = await record(db, request_id, [lost, frame(request_id, 1)], expected=2)
    assert [item.outcome for item in answers] == ["condemned", "stored"]
    row = await assert_ledger(db, request_id)
    assert (row.stored, row.in_flight) == (1, 1)
    assert [item.outcome for item in await record(db, request_id, [frame(request_id, 0)], expected=2)] == ["stored"]
    assert (await assert_ledger(db, request_id)).in_flight == 0


async def test_a_frame_of_no_request_is_a_foreign_key_violation(db: Database) -> None:
    """Rule 9: a record that can never be stored is told from one that may be."""
    with pytest.raises(Exception, match="no such request") as caught:
        await record(db, new_id(), [frame(new_id(), 0)], expected=1)
    assert getattr(caught.value, "orig", None) is not None
    assert caught.value.orig.sqlstate == "23503"  # type: ignore[attr-defined]
    assert not isinstance(caught.value, DatabaseUnavailable)


@dataclass
class Model:
    """What the ledger should be after a sequence of operations, one at a time."""

    cap: int | None
    status: IngestionStatus = IngestionStatus.IN_PROGRESS
    expected: int = 0
    stored: set[int] = field(default_factory=set)
    dropped: dict[int, DropReason] = field(default_factory=dict)
    cancelled: bool = False

    def record(self, slots: list[int], drops: dict[DropReason, list[int]], due: int) -> dict[int, str]:
        final = self.status in FINAL_STATUSES
        outcomes: dict[int, str] = {}
        surplus = []
        for slot in sorted(slots):
            if slot in self.stored:
                outcomes[slot] = "exists"
            elif final and slot not in self.dropped:
                outcomes[slot] = "late"
            elif self.cap is not None and len(self.stored) >= self.cap:
                outcomes[slot] = "surplus"
                surplus.append(slot)
                if self.dropped.get(slot) in (DropReason.SPOOLED, DropReason.LEASE_LOST):
                    self.dropped[slot] = DropReason.SURPLUS
            else:
                outcomes[slot] = "stored"
                self.stored.add(slot)
                self.dropped.pop(slot, None)
        if not final:
            for reason, given in [*drops.items(), (DropReason.SURPLUS, surplus)]:
                for slot in given:
                    if slot not in self.stored and slot not in self.dropped:
                        self.dropped[slot] = reason
            self.expected = max([self.expected, due, *(slot + 1 for slot in [*self.stored, *self.dropped])])
        return outcomes

    def settle(self, reason: DropReason, due: int) -> None:
        self.expected = max(self.expected, due)
        for slot in range(self.expected):
            if slot not in self.stored and slot not in self.dropped:
                self.dropped[slot] = reason

    def finish(self, wanted: IngestionStatus, reason: DropReason, due: int) -> None:
        if self.status in FINAL_STATUSES:
            return
        self.settle(reason, due)
        self.status = IngestionStatus.CANCELLED if self.cancelled else wanted
        if self.status is IngestionStatus.COMPLETED and not self.stored:
            self.status = IngestionStatus.FAILED


@pytest.mark.parametrize("seed", range(8))
async def test_the_ledger_does_what_the_model_says(db: Database, seed: int) -> None:
    """Random stores, drops, settlements, cancels, ends and late frames, one after the other."""
    rng = random.Random(seed)
    cap = rng.choice([None, None, 3, 8])
    request_id = await add_capture(db, max_frames=cap)
    claim = await take(db, request_id)
    model = Model(cap)
    for _ in range(40):
        kind = rng.choices(["record", "settle", "cancel", "finish"], [20, 2, 1, 1])[0]
        due = rng.randrange(model.expected + 4) if rng.random() < 0.7 else 0
        if kind == "record":
            slots = rng.sample(range(20), rng.randrange(5))
            reasons = rng.sample([reason for reason in DropReason if reason is not DropReason.SURPLUS], rng.randrange(3))
            pool = rng.sample(range(20), 6)  # disjoint, as a capture books them
            drops: dict[DropReason, list[int]] = {}
            for n, reason in enumerate(reasons):
                drops[reason] = pool[3 * n : 3 * n + rng.randrange(1, 4)]
            answers = await record(db, request_id, [frame(request_id, slot) for slot in slots], {**drops}, due)
            assert {item.sequence: item.outcome for item in answers} == model.record(slots, drops, due)
        elif kind == "settle" and model.status not in FINAL_STATUSES:
            async with db.unit_of_work() as uow:
                await uow.captures.take_over(claim, due, AT)
            model.settle(DropReason.LEASE_LOST, due)
        elif kind == "cancel":
            async with db.unit_of_work() as uow:
                assert await uow.captures.request_cancel(request_id, cameras=ALL_CAMERAS) is model.status
            model.cancelled = model.cancelled or model.status not in FINAL_STATUSES
        elif kind == "finish":
            wanted = rng.choice([IngestionStatus.COMPLETED, IngestionStatus.FAILED])
            model.finish(wanted, DropReason.SPOOLED, due)
            assert await finish(db, claim, wanted, expected=due, rest=DropReason.SPOOLED) is model.status
        row = await assert_ledger(db, request_id)
        assert (row.status, row.expected, row.stored) == (model.status, model.expected, len(model.stored))
        assert slots_by_reason(row) == model.dropped
        async with db.unit_of_work() as uow:
            assert await uow.frames.sequences(request_id) == model.stored


@pytest.mark.parametrize("seed", range(3))
async def test_the_ledger_holds_under_concurrent_owners(db: Database, seed: int) -> None:
    """Several owners store, drop, take over and end the same captures at once; a reader never sees it wrong."""
    ids = [await add_capture(db, max_frames=cap) for cap in (None, 10)]
    finals: dict[UUID, str] = {}
    stored_before: dict[UUID, int] = dict.fromkeys(ids, 0)
    busy = True

    async def owner(number: int) -> None:
        mine = random.Random(seed * 10 + number)
        claims = {request_id: await take(db, request_id, f"owner-{number}") for request_id in ids}
        for step in range(30):
            request_id = mine.choice(ids)
            slots = mine.sample(range(30), 3)
            drops: dict[DropReason, Iterable[int]] = {mine.choice(list(DropReason)): mine.sample(range(30), 2)}
            await record(db, request_id, [frame(request_id, slot) for slot in slots], drops, mine.randrange(30))
            try:
                if mine.random() < 0.1:
                    claims[request_id] = await take(db, request_id, f"owner-{number}")
                elif mine.random() < 0.1:
                    async with db.unit_of_work() as uow:
                        await uow.captures.take_over(claims[request_id], mine.randrange(30), AT)
                elif step > 20 and mine.random() < 0.1:
                    await finish(db, claims[request_id], expected=30)
            except LeaseLost:
                pass

    async def reader() -> None:
        while busy:
            for request_id in ids:
                row = await assert_ledger(db, request_id)
                assert row.stored >= stored_before[request_id]  # never falls
                stored_before[request_id] = row.stored
                if row.status in [status.value for status in FINAL_STATUSES]:
                    assert finals.setdefault(request_id, row.status) == row.status  # absorbing

    reading = asyncio.create_task(reader())
    await asyncio.gather(*(owner(number) for number in range(5)))
    busy = False
    await reading
    for request_id, cap in zip(ids, (None, 10), strict=True):
        row = await assert_ledger(db, request_id)
        assert cap is None or row.stored <= cap
        async with db.unit_of_work() as uow:
            lease = await uow.leases.get(request_id)
        if lease is not None:
            await finish(db, Claim(request_id, lease.epoch, resumed=True), expected=30)
        row = await assert_ledger(db, request_id)
        assert row.status == "completed"


async def test_final_states_are_absorbing(db: Database) -> None:
    for end in (IngestionStatus.COMPLETED, IngestionStatus.FAILED):
        request_id = await add_capture(db)
        claim = await take(db, request_id)
        await record(db, request_id, [frame(request_id, 0)], expected=2)
        assert await finish(db, claim, end, expected=2) is end
        row = await row_of(db, request_id)
        for _ in range(2):  # the same call, whose COMMIT was not known to have succeeded
            assert await finish(db, claim, IngestionStatus.COMPLETED, expected=9) is end
        async with db.unit_of_work() as uow:
            assert await uow.captures.request_cancel(request_id, cameras=ALL_CAMERAS) is end
        for write in STATE_WRITES:
            with pytest.raises(LeaseLost):
                async with db.unit_of_work() as uow:
                    await write(uow, claim)
        after = await assert_ledger(db, request_id)
        assert (after.status, after.completed_at, after.updated_at) == (row.status, row.completed_at, row.updated_at)
        assert after.cancel_requested_at is None


async def test_completed_needs_a_frame_and_failed_keeps_its_error(db: Database) -> None:
    request_id = await add_capture(db)
    claim = await take(db, request_id)
    assert await finish(db, claim, IngestionStatus.COMPLETED, expected=3) is IngestionStatus.FAILED
    row = await assert_ledger(db, request_id)
    assert row.error is not None
    assert row.error["code"] == "read_timeout"
    assert row.dropped() == {"camera_down": 3}
    async with db.unit_of_work() as uow:
        assert await uow.leases.get(request_id) is None


# -- leases ------------------------------------------------------------------------------------------------------

STATE_WRITES: list[Callable[[UnitOfWork, Claim], Awaitable[Any]]] = [
    lambda uow, claim: uow.captures.start(claim),
    lambda uow, claim: uow.captures.set_grid_start(claim, AT, None),
    lambda uow, claim: uow.captures.set_source(claim, SourceInfo("h264", 4, 3, 25.0)),
    lambda uow, claim: uow.captures.set_error(claim, CaptureError("read_timeout", "x", True, AT)),
    lambda uow, claim: uow.captures.set_reconnects(claim, 3),
    lambda uow, claim: uow.captures.open_gap(claim, AT, "camera_down"),
    lambda uow, claim: uow.captures.close_gap(claim, AT),
    lambda uow, claim: uow.captures.take_over(claim, 5, AT),
]


async def clear_leases(db: Database) -> None:
    """What other tests left would be claimed first."""
    async with db.unit_of_work() as uow:
        await uow.session.execute(text("DELETE FROM capture_leases"))


async def claim(
    db: Database, owner: str, limit: int = 10, running: dict[str, int] | None = None, new_cameras: int = 100,
    shares: ProcessShares | None = None,
) -> list[Claim]:  # fmt: skip
    async with db.unit_of_work() as uow:
        return await uow.leases.claim(owner, TTL, limit, running or {}, new_cameras, shares)


async def cameras_of(db: Database, claims: list[Claim]) -> list[str]:
    async with db.unit_of_work() as uow:
        found = await uow.leases.of_claims(claims)
    return sorted(found[item.request_id].camera_id for item in claims)


async def test_claims_are_fair_across_cameras(db: Database) -> None:
    await clear_leases(db)
    for _ in range(5):
        await add_capture(db, "busy")
    for camera in ("a", "b", "c"):
        await add_capture(db, camera)
    assert await cameras_of(db, await claim(db, "me", 4)) == ["a", "b", "busy", "c"]
    assert await cameras_of(db, await claim(db, "me", 2)) == ["busy", "busy"]
    await add_capture(db, "d")
    # `busy` has three running already: the new camera's first goes before its next.
    assert await cameras_of(db, await claim(db, "me", 1, {"busy": 3})) == ["d"]
    assert await claim(db, "me", 0) == []


async def test_no_more_new_cameras_are_taken_than_streams_can_be_opened(db: Database) -> None:
    await clear_leases(db)
    for camera in ("a", "b", "c", "c", "open"):
        await add_capture(db, camera)
    taken = await claim(db, "me", 10, {"open": 1}, new_cameras=1)
    assert await cameras_of(db, taken) == ["a", "open"]
    assert await claim(db, "me", 10, {"open": 2, "a": 1}, new_cameras=0) == []
    assert await cameras_of(db, await claim(db, "me", 10, {"c": 1}, new_cameras=0)) == ["c", "c"]


async def test_one_principal_is_given_no_more_than_its_share(db: Database) -> None:
    """Streams first, then captures; what it may not have keeps nothing from the next one."""
    await clear_leases(db)
    for camera in ("a1", "a2", "a3", "a4", "a1", "a1", "a1"):
        await add_capture(db, camera, principal="a")
    await add_capture(db, "b1", principal="b")
    await add_capture(db, "nobody's")
    taken = await claim(db, "me", 10, new_cameras=4, shares=ProcessShares(4, 2, {}))
    assert await cameras_of(db, taken) == ["a1", "a1", "a1", "a2", "b1", "nobody's"]
    running = {"a1": 3, "a2": 1, "b1": 1, "nobody's": 1}
    full = ProcessShares(4, 2, {"a": (4, 2), "b": (1, 1)})
    assert await claim(db, "me", 10, running, 10, full) == []
    fewer = ProcessShares(4, 2, {"a": (2, 1), "b": (1, 1)})
    assert await cameras_of(db, await claim(db, "me", 10, {"a1": 2, "b1": 1}, 10, fewer)) == ["a1", "a3"]


async def test_what_was_taken_before_goes_on_whatever_its_principal_holds(db: Database) -> None:
    await clear_leases(db)
    first = await add_capture(db, "a1", principal="a")
    await claim(db, "gone")
    async with db.unit_of_work() as uow:
        await uow.session.execute(text("UPDATE capture_leases SET expires_at = now() - interval '1 s'"))
    await add_capture(db, "a2", principal="a")
    shares = ProcessShares(2, 1, {"a": (2, 1)})
    assert [item.request_id for item in await claim(db, "me", shares=shares)] == [first]


async def test_two_claimers_share_without_waiting_for_each_other(db: Database) -> None:
    await clear_leases(db)
    ids = {await add_capture(db, f"cam-{n % 7}") for n in range(40)}
    async with db.unit_of_work() as uow:  # holds its rows locked while the others claim
        first = await uow.leases.claim("first", TTL, 10, {}, 100)
        began = time.monotonic()
        others = await asyncio.gather(*(claim(db, f"other-{n}", 20) for n in range(4)))
        assert time.monotonic() - began < 3
    rest = await claim(db, "late", 40)
    taken = [item.request_id for group in (first, *others, rest) for item in group]
    assert len(first) == 10
    assert len(taken) == len(set(taken))  # nobody twice
    assert set(taken) == ids  # and nobody forgotten
    assert not any(item.resumed for group in (first, *others, rest) for item in group)


async def test_a_lease_lapses_by_the_databases_clock(db: Database) -> None:
    await clear_leases(db)
    request_id = await add_capture(db)

    async def set_expiry(expression: str) -> None:
        async with db.unit_of_work() as uow:
            await uow.session.execute(text(f"UPDATE capture_leases SET expires_at = {expression}"))

    (first,) = await claim(db, "a")
    assert (first.request_id, first.epoch, first.resumed) == (request_id, 1, False)
    assert await claim(db, "b") == []
    for lapsed in ("now() - interval '1 ms'", "NULL", f"now() + interval '{TTL + 1} s'", "now() + interval '10 years'"):
        await set_expiry(lapsed)
        (again,) = await claim(db, "b")
        assert again.resumed
        assert again.epoch > first.epoch
        assert await claim(db, "c") == []  # now it is held for a proper time
        first = again
    await set_expiry(f"now() + interval '{TTL - 1} s'")
    assert await claim(db, "c") == []


async def test_owners_that_died_without_progress_are_counted(db: Database) -> None:
    """Progress, an orderly hand-over and the same process's own lease begin the count anew, or do not count."""
    await clear_leases(db)
    request_id = await add_capture(db)

    async def lapse() -> None:
        async with db.unit_of_work() as uow:
            await uow.session.execute(text("UPDATE capture_leases SET expires_at = now() - interval '1 ms'"))

    async def taken(owner: str, *, doubtful: bool = True) -> Claim | None:
        async with db.unit_of_work() as uow:
            found = await uow.leases.claim(owner, TTL, 9, {}, 9, doubtful=doubtful)
        return found[0] if found else None

    async def doubted(owner: str, running: Sequence[str] = (), new_cameras: int = 1) -> Claim | None:
        async with db.unit_of_work() as uow:
            found = await uow.leases.claim_doubtful(owner, TTL, running, new_cameras)
        return found[0] if found else None

    first = await taken("a", doubtful=False)
    assert first is not None
    assert first.attempts == 0
    assert await doubted("b") is None  # it is held
    await lapse()
    assert await taken("b", doubtful=False) is None
    assert await doubted("b", new_cameras=0) is None
    second = await doubted("b")
    assert second is not None
    assert (second.attempts, second.resumed, second.poisoned) == (1, True, False)
    await lapse()
    same = await taken("b", doubtful=False)  # it lives: its lease had lapsed while the database was away
    assert same is not None
    assert same.attempts == 1
    async with db.unit_of_work() as uow:
        await uow.leases.hand_back(same)
    handed = await taken("c", doubtful=False)
    assert handed is not None
    assert handed.attempts == 1
    for count, owner in ((2, "d"), (3, "e")):
        await lapse()
        claimed = await doubted(owner)
        assert claimed is not None
        assert (claimed.attempts, claimed.poisoned) == (count, count == 3)
    assert claimed is not None
    # What settles by itself is no progress; a takeover books it.
    async with db.unit_of_work() as uow:
        await uow.captures.start(claimed)
        await uow.captures.set_grid_start(claimed, AT, None)
        await uow.captures.take_over(claimed, 5, AT)
        await uow.ledger.record(request_id, [], {DropReason.CAMERA_DOWN: [5]}, 6)
    await lapse()
    assert await taken("f", doubtful=False) is None
    claimed = await doubted("f")
    assert claimed is not None
    assert claimed.attempts == 4
    for progress in ("slot", "failure", "minute"):
        async with db.unit_of_work() as uow:
            if progress == "slot":
                await uow.ledger.record(request_id, [], {DropReason.NO_PICTURE: [6]}, 7)
            elif progress == "failure":
                await uow.captures.set_error(claimed, CaptureError("connect_timeout", "No answer.", True, AT))
            else:
                await uow.session.execute(text("UPDATE capture_leases SET claimed_at = now() - interval '90 s'"))
        await lapse()
        assert await doubted("x") is None
        claimed = await taken(f"after {progress}", doubtful=False)
        assert claimed is not None
        assert claimed.attempts == 0


async def test_a_lease_is_as_long_as_its_owner_says(db: Database) -> None:
    """Processes with another RTSP__LEASE_TTL: a lease is judged by the TTL in its row."""
    await clear_leases(db)
    await add_capture(db)
    cancelled = await add_capture(db, unique())

    async def claim_with(ttl: float) -> list[Claim]:
        async with db.unit_of_work() as uow:
            return await uow.leases.claim("other", ttl, 10, {}, 100)

    async def set_ahead(seconds: float) -> None:
        async with db.unit_of_work() as uow:
            ahead = text("UPDATE capture_leases SET expires_at = clock_timestamp() + make_interval(secs => :s)")
            await uow.session.execute(ahead, {"s": seconds})

    mine = await claim(db, "me")
    assert len(mine) == 2
    for one in mine:
        async with db.unit_of_work() as uow:
            await uow.captures.start(one)
    async with db.unit_of_work() as uow:
        await uow.captures.request_cancel(cancelled, cameras=ALL_CAMERAS)
    short, long = 2, 4 * TTL
    assert await claim_with(short) == []  # a healthy lease of `TTL`
    async with db.unit_of_work() as uow:
        assert await uow.leases.take_cancelled("other", short, 10) == []
    async with db.one_statement() as uow:
        assert len((await uow.leases.renew("me", TTL, mine)).ours) == 2
    assert await claim_with(short) == []
    await set_ahead(TTL + 2)
    assert len(await claim_with(long)) == 2  # a clock that was wrong wrote it, however long the reader's own leases are
    await set_ahead(long - 2)
    assert await claim(db, "me") == []
    async with db.unit_of_work() as uow:  # a burst's leases are its owner's from the start
        row = capture_row(unique())
        assert await uow.requests.add_group([row], "me", long) == {row.id}
    assert await claim_with(short) == []


async def test_a_lease_renewed_after_a_claim_began_is_not_taken(db: Database) -> None:
    await clear_leases(db)
    request_id = await add_capture(db)
    (mine,) = await claim(db, "me")
    async with db.unit_of_work() as other:
        await other.session.execute(text("SELECT now(), pg_sleep(0.6)"))  # its transaction's now() stands still
        async with db.one_statement() as uow:
            assert (await uow.leases.renew("me", TTL, [mine])).ours == {request_id}
        assert await other.leases.claim("other", TTL, 10, {}, 100) == []
        assert await other.leases.take_cancelled("other", TTL, 10) == []


async def test_a_locked_lease_keeps_no_other_from_being_renewed(db: Database) -> None:
    await clear_leases(db)
    ids = [await add_capture(db, unique()) for _ in range(3)]
    claims = [await take(db, request_id, "me") for request_id in ids]
    async with db.unit_of_work() as holder:
        assert await holder.leases.fence(claims[1])  # and stalls
        began = time.monotonic()
        async with db.one_statement() as uow:
            renewed = await uow.leases.renew("me", TTL, claims)
        assert time.monotonic() - began < 1
    assert renewed == Renewed(frozenset({ids[0], ids[2]}), frozenset({ids[1]}), frozenset())


async def test_a_cancel_that_nobody_runs_is_taken_by_anybody(db: Database) -> None:
    await clear_leases(db)
    running, ownerless, pending = [await add_capture(db, unique()) for _ in range(3)]
    await take(db, running, "somebody")
    gone = await take(db, ownerless, "gone")
    async with db.unit_of_work() as uow:
        for request_id in (running, ownerless, pending):
            await uow.captures.request_cancel(request_id, cameras=ALL_CAMERAS)
        await uow.leases.hand_back(gone)
    async with db.unit_of_work() as uow:
        (taken,) = await uow.leases.take_cancelled("me", TTL, 10)
    assert (taken.request_id, taken.epoch, taken.resumed) == (ownerless, gone.epoch + 1, True)
    assert await finish(db, taken) is IngestionStatus.CANCELLED


async def test_an_old_epoch_writes_evidence_and_no_state(db: Database) -> None:
    request_id = await add_capture(db)
    old = await take(db, request_id, "old")
    new = await take(db, request_id, "new")
    assert new.epoch == old.epoch + 1
    before = await row_of(db, request_id)
    for write in STATE_WRITES:
        with pytest.raises(LeaseLost):
            async with db.unit_of_work() as uow:
                await write(uow, old)
    with pytest.raises(LeaseLost):
        await finish(db, old, expected=3)
    after = await row_of(db, request_id)
    assert (after.status, after.expected, after.grid_start, after.error) == ("in_progress", 0, None, None)
    assert after.updated_at == before.updated_at
    assert [item.outcome for item in await record(db, request_id, [frame(request_id, 0)], expected=1)] == ["stored"]
    async with db.unit_of_work() as uow:
        assert await uow.leases.renew("old", TTL, [old]) == Renewed(frozenset(), frozenset(), frozenset())
        await uow.leases.hand_back(old)  # of no effect on the new owner's
    async with db.unit_of_work() as uow:
        lease = await uow.leases.get(request_id)
        assert lease is not None
        assert (lease.owner, lease.epoch) == ("new", new.epoch)
        assert await uow.leases.renew("new", TTL, [new]) == Renewed(frozenset({request_id}), frozenset(), frozenset())
        for write in STATE_WRITES:
            await write(uow, new)
    assert await finish(db, new, expected=1) is IngestionStatus.COMPLETED
    assert await finish(db, new, expected=1) is IngestionStatus.COMPLETED


async def test_the_grid_is_set_once(db: Database) -> None:
    request_id = await add_capture(db)
    first = await take(db, request_id, "a")
    async with db.unit_of_work() as uow:
        assert await uow.captures.set_grid_start(first, AT, SourceInfo("h264", 4, 3, 25.0)) == AT
    second = await take(db, request_id, "b")
    async with db.unit_of_work() as uow:
        assert await uow.captures.set_grid_start(second, AT + timedelta(seconds=1), None) == AT


async def test_renewing_tells_what_is_lost_and_what_is_to_be_cancelled(db: Database) -> None:
    await clear_leases(db)
    ids = [await add_capture(db, unique()) for _ in range(4)]
    claims = [await take(db, request_id, "me") for request_id in ids]
    await take(db, ids[1], "other")
    async with db.unit_of_work() as uow:
        await uow.captures.request_cancel(ids[2], cameras=ALL_CAMERAS)
    await finish(db, claims[3])
    async with db.unit_of_work() as uow:
        renewed = await uow.leases.renew("me", TTL, claims)
    assert renewed == Renewed(frozenset({ids[0], ids[2]}), frozenset(), frozenset({ids[2]}))
    async with db.unit_of_work() as uow:
        assert await uow.leases.renew("me", TTL, []) == Renewed(frozenset(), frozenset(), frozenset())


async def test_what_is_handed_back_is_claimable_at_once(db: Database) -> None:
    await clear_leases(db)
    request_id = await add_capture(db)
    (mine,) = await claim(db, "me")
    assert await claim(db, "other") == []
    async with db.unit_of_work() as uow:
        await uow.leases.hand_back(mine)
    (theirs,) = await claim(db, "other")
    assert (theirs.request_id, theirs.epoch, theirs.resumed) == (request_id, mine.epoch + 1, True)


async def test_one_gap_is_open_at_a_time(db: Database) -> None:
    request_id = await add_capture(db)
    mine = await take(db, request_id)
    async with db.unit_of_work() as uow:
        await uow.captures.open_gap(mine, AT, "camera_down")
        await uow.captures.open_gap(mine, AT + timedelta(seconds=1), "lease_lost")
    async with db.unit_of_work() as uow:
        await uow.captures.close_gap(mine, AT - timedelta(seconds=5))  # never ends before it began
        await uow.captures.close_gap(mine, AT + timedelta(seconds=9))
        await uow.captures.open_gap(mine, AT + timedelta(seconds=20), "lease_lost")
    await finish(db, mine)
    async with db.unit_of_work() as uow:
        gaps = await uow.requests.gaps(request_id)
        assert [(gap.from_at, gap.to_at, gap.reason) for gap in gaps] == [
            (AT, AT, "camera_down"),
            (AT + timedelta(seconds=20), AT + timedelta(seconds=20), "lease_lost"),
        ]
        assert {key: [gap.id for gap in found] for key, found in (await uow.requests.gaps_of([request_id])).items()} == {
            request_id: [gap.id for gap in gaps]
        }


async def test_gaps_do_not_overlap(db: Database) -> None:
    """The former owner closed a gap after its last frame, and died before the next was committed."""
    request_id = await add_capture(db)
    old = await take(db, request_id)
    async with db.unit_of_work() as uow:
        await uow.captures.open_gap(old, AT, "camera_down")
        await uow.captures.close_gap(old, AT + timedelta(seconds=5))
    new = await take(db, request_id, "new")
    async with db.unit_of_work() as uow:
        await uow.captures.take_over(new, 9, AT)
    await record(db, request_id, [frame(request_id, 9)], expected=10)
    async with db.unit_of_work() as uow:
        await uow.captures.close_gap(new, AT + timedelta(seconds=9))
        gaps = await uow.requests.gaps(request_id)
    assert [(gap.from_at, gap.to_at, gap.reason) for gap in gaps] == [
        (AT, AT + timedelta(seconds=5), "camera_down"),
        (AT + timedelta(seconds=5), AT + timedelta(seconds=9), "lease_lost"),
    ]
    assert (await row_of(db, request_id)).dropped() == {"lease_lost": 9}


async def test_slots_that_sql_drops_are_counted_once_they_are_committed(db: Database) -> None:
    """A takeover's slots are known to the database only: the alert on lease_lost never fired."""
    request_id = await add_capture(db)
    await take(db, request_id)
    new = await take(db, request_id, "new")
    counted = FRAMES_DROPPED.labels(reason="lease_lost")._value
    before = counted.get()
    with contextlib.suppress(ZeroDivisionError):
        async with db.unit_of_work() as uow:
            await uow.captures.take_over(new, 4, AT)
            raise ZeroDivisionError
    assert counted.get() == before
    async with db.unit_of_work() as uow:
        await uow.captures.take_over(new, 4, AT)
        assert counted.get() == before
    assert counted.get() == before + 4


# -- cancel ------------------------------------------------------------------------------------------------------


async def test_cancelling_a_pending_request_ends_it_in_that_transaction(db: Database) -> None:
    await clear_leases(db)
    request_id = await add_capture(db)
    async with db.unit_of_work() as uow:
        assert await uow.captures.request_cancel(request_id, cameras=ALL_CAMERAS) is IngestionStatus.PENDING
    row = await assert_ledger(db, request_id)
    assert (row.status, row.expected) == ("cancelled", 0)
    assert row.cancel_requested_at is not None
    assert await claim(db, "me") == []
    async with db.unit_of_work() as uow:
        assert await uow.captures.request_cancel(request_id, cameras=ALL_CAMERAS) is IngestionStatus.CANCELLED
        assert await uow.captures.request_cancel(new_id(), cameras=ALL_CAMERAS) is None


async def test_a_committed_cancel_wins_over_completed(db: Database) -> None:
    request_id = await add_capture(db)
    mine = await take(db, request_id)
    await record(db, request_id, [frame(request_id, 0)], expected=3)
    async with db.unit_of_work() as uow:
        assert await uow.captures.request_cancel(request_id, cameras=ALL_CAMERAS) is IngestionStatus.IN_PROGRESS
    asked = (await row_of(db, request_id)).cancel_requested_at
    async with db.unit_of_work() as uow:
        await uow.captures.request_cancel(request_id, cameras=ALL_CAMERAS)
    assert (await row_of(db, request_id)).cancel_requested_at == asked
    ended = await finish(db, mine, IngestionStatus.COMPLETED, expected=3, rest=DropReason.CANCELLED)
    assert ended is IngestionStatus.CANCELLED
    row = await assert_ledger(db, request_id)
    assert row.error is None
    assert row.dropped() == {"cancelled": 2}


async def test_cancel_start_and_finish_at_once_do_not_wait_for_a_deadlock(db: Database) -> None:
    """Both lock lease and row: in one order, or PostgreSQL lets them hang for a second and ends one of them."""
    took = []
    for _ in range(25):
        request_id = await add_capture(db)
        async with db.unit_of_work() as uow:
            await uow.session.execute(
                text(
                    "UPDATE capture_leases SET owner = 'me', epoch = 1, expires_at = now() + interval '9 s', ttl = 9"
                    " WHERE request_id = :id"
                ),
                {"id": request_id},
            )
        mine = Claim(request_id, 1, resumed=False)

        async def start(mine: Claim = mine) -> None:
            try:
                async with db.unit_of_work() as uow:
                    await uow.captures.start(mine)
            except LeaseLost:
                return

        async def cancel(request_id: UUID = request_id) -> None:
            async with db.unit_of_work() as uow:
                await uow.captures.request_cancel(request_id, cameras=ALL_CAMERAS)

        began = time.monotonic()
        await asyncio.gather(start(), cancel(), start(), cancel())
        took.append(time.monotonic() - began)
        row = await assert_ledger(db, request_id)
        assert row.cancel_requested_at is not None
        assert row.status in ("cancelled", "in_progress")
    assert sorted(took)[-3] < 0.9  # on a full machine one or two may be that slow by themselves


async def test_the_lease_is_locked_before_the_row_everywhere(db: Database) -> None:
    """The deadlock made certain: each side holds its first lock before the other asks for its second."""
    request_id = await add_capture(db)
    async with db.unit_of_work() as starter:
        lock_lease = text("SELECT 1 FROM capture_leases WHERE request_id = :id FOR UPDATE")
        await starter.session.execute(lock_lease, {"id": request_id})

        async def cancel() -> IngestionStatus | None:
            async with db.unit_of_work() as uow:
                return await uow.captures.request_cancel(request_id, cameras=ALL_CAMERAS)

        cancelling = asyncio.create_task(cancel())
        await asyncio.sleep(0.3)
        assert not cancelling.done()
        async with asyncio.timeout(0.5):  # the canceller waits for the lease and holds nothing that we need
            await starter.session.execute(
                text("SELECT 1 FROM ingestion_requests WHERE id = :id FOR NO KEY UPDATE"), {"id": request_id}
            )
    assert await cancelling is IngestionStatus.PENDING


# -- uploads -----------------------------------------------------------------------------------------------------


async def test_an_upload_is_stored_whole_and_once(db: Database) -> None:
    row = upload_row("up")
    row.rejected = [{"index": 1, "filename": "x", "code": "invalid_image", "detail": "d", "retryable": False}]
    frames = [frame(row.id, slot, camera_id="up", source_type=SourceType.UPLOAD) for slot in (0, 2)]
    for _ in range(2):
        async with db.unit_of_work() as uow:
            await uow.requests.add_upload(upload_of(row, frames, [1]))
    found = await assert_ledger(db, row.id)
    assert (found.status, found.expected, found.stored, found.capture_mode) == ("completed", 3, 2, None)
    assert found.dropped() == {"rejected": 1}


async def test_an_upload_that_is_there_is_not_added_to(db: Database) -> None:
    """A second run of its key, in which more went well, changes nothing: the first run's answer is the one that counts."""
    row = upload_row("up")
    row.rejected = [{"index": 1, "filename": "x", "code": "storage_unavailable", "detail": "d", "retryable": True}]
    for slots, rejected in (([0], [1]), ([0, 1], [])):
        frames = [frame(row.id, slot, camera_id="up", source_type=SourceType.UPLOAD) for slot in slots]
        async with db.unit_of_work() as uow:
            await uow.requests.add_upload(upload_of(row, frames, rejected))
    found = await assert_ledger(db, row.id)
    assert (found.stored, found.dropped()) == (1, {"rejected": 1})


async def test_a_capture_that_has_ended_gets_no_lease_again(db: Database) -> None:
    """Nor one that runs a second one: a retry's second run finds the request and leaves it alone."""
    row = capture_row("again")
    async with db.unit_of_work() as uow:
        await uow.requests.add_capture(row)
    async with db.unit_of_work() as uow:
        assert await uow.captures.request_cancel(row.id, cameras=ALL_CAMERAS) is IngestionStatus.PENDING
    async with db.unit_of_work() as uow:
        assert (await uow.requests.add_capture(row)).status == "cancelled"
        leases = text("SELECT count(*) FROM capture_leases WHERE request_id = :id")
        assert await uow.session.scalar(leases, {"id": row.id}) == 0


async def test_duplicate_of_names_the_cameras_first(db: Database) -> None:
    """Two uploads of the same bytes at one moment: exactly one is no duplicate."""
    for _ in range(6):
        camera, sha256 = unique(), hashlib.sha256(secrets.token_bytes(8)).hexdigest()
        rows = [upload_row(camera) for _ in range(4)]

        async def store(row: IngestionRequest, camera: str = camera, sha256: str = sha256) -> None:
            both = [frame(row.id, slot, camera_id=camera, sha256=sha256, source_type=SourceType.UPLOAD) for slot in range(2)]
            async with db.unit_of_work() as uow:
                await uow.requests.add_upload(upload_of(row, both, []))

        await asyncio.gather(*(store(row) for row in rows))
        async with db.unit_of_work() as uow:
            frames = [item for row in rows for item in await uow.frames.of_request(row.id, newest_first=False, limit=9)]
        firsts = [item for item in frames if item.duplicate_of is None]
        assert len(frames) == 8
        assert len(firsts) == 1
        assert {item.duplicate_of for item in frames} == {None, firsts[0].id}
        assert sum([(await row_of(db, row.id)).duplicates for row in rows]) == 7
    other = upload_row(unique())
    async with db.unit_of_work() as uow:  # another camera's are no duplicates
        await uow.requests.add_upload(upload_of(other, [frame(other.id, 0, camera_id=other.camera_id, sha256=sha256)], []))
    assert (await row_of(db, other.id)).duplicates == 0


# -- deleting ----------------------------------------------------------------------------------------------------


async def test_a_delete_leaves_the_slots_tombstone(db: Database) -> None:
    request_id = await add_capture(db)
    mine = await take(db, request_id)
    frames = [frame(request_id, slot) for slot in range(3)]
    await record(db, request_id, frames, expected=3)
    target = frames[1]

    async def begin() -> str | None:
        async with db.unit_of_work() as uow:
            return await uow.frames.begin_delete(target.frame_id, cameras=ALL_CAMERAS)

    assert await asyncio.gather(*(begin() for _ in range(5))) == [target.storage_path] * 5  # cut off: the key again
    row = await assert_ledger(db, request_id)
    assert (row.stored, row.deleted) == (3, 1)
    async with db.unit_of_work() as uow:
        assert await uow.frames.get_stored(target.frame_id, cameras=ALL_CAMERAS) is None
        assert [item.sequence for item in await uow.frames.of_request(request_id, newest_first=True, limit=9)] == [2, 0]
        assert (target.frame_id, target.storage_path) in await uow.frames.deleting(limit=100, older_than_s=0)
        assert await uow.frames.deleting(limit=100, older_than_s=600) == []
    for _ in range(2):
        async with db.unit_of_work() as uow:
            await uow.frames.finish_deletes([Removal(target.frame_id, target.storage_path)])
        assert await begin() is None
    async with db.unit_of_work() as uow:
        assert await uow.frames.begin_delete(new_id(), cameras=ALL_CAMERAS) is None
        assert await uow.frames.deleting(limit=100, older_than_s=0) == []
    # A replay of the slot finds it filled.
    assert [item.outcome for item in await record(db, request_id, [frame(request_id, 1)], expected=3)] == ["exists"]
    await finish(db, mine, expected=3)
    row = await assert_ledger(db, request_id)
    assert (row.stored, row.deleted, row.status) == (3, 1, "completed")


# -- lists -------------------------------------------------------------------------------------------------------


@pytest.fixture
def queries(db: Database, storage: StorageService) -> Queries:
    return Queries(db, storage, SecretBox([SECRETS_KEY]), cursors=Cursors(b"k"))


async def fill(db: Database, camera: str, moments: list[datetime]) -> UUID:
    """A capture of `camera` with a frame at each moment; equal moments are ties."""
    request_id = await add_capture(db, camera)
    frames = [
        frame(request_id, slot, camera_id=camera, timestamp=at, frame_id=frame_id(request_id, slot, at))
        for slot, at in enumerate(moments)
    ]
    await record(db, request_id, frames, expected=len(frames))
    return request_id


@pytest.mark.parametrize("descending", [False, True])
async def test_every_frame_is_on_one_page_while_frames_are_added(db: Database, queries: Queries, descending: bool) -> None:
    camera = unique()
    rng = random.Random(3)
    # Few different moments, many ties: only the id tells them apart.
    await fill(db, camera, [AT + timedelta(seconds=rng.randrange(6)) for _ in range(60)])
    wanted = FrameFilter(camera_id=camera, descending=descending)
    before = {item.frame_id for item in (await list_frames(queries, wanted, 200, None, who=ANONYMOUS)).items}
    assert len(before) == 60
    seen: list[tuple[datetime, UUID]] = []
    cursor: str | None = None
    while True:
        page = await list_frames(queries, wanted, rng.choice([1, 3, 7]), cursor, who=ANONYMOUS)
        seen += [(item.timestamp, item.frame_id) for item in page.items]
        await fill(db, camera, [AT + timedelta(seconds=rng.randrange(6)) for _ in range(2)])  # before and after the cursor
        if len(seen) > 400:
            break  # more is added than read: what was there before must have come by now
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
        if before <= {row_id for _, row_id in seen}:
            break
    ids = [row_id for _, row_id in seen]
    assert before <= set(ids)
    assert len(ids) == len(set(ids))
    assert seen == sorted(seen, reverse=descending)


async def test_every_request_is_on_one_page_while_requests_are_added(db: Database, queries: Queries) -> None:
    camera = unique()
    async with db.unit_of_work() as uow:  # one transaction: one created_at, all ties
        for _ in range(23):
            await uow.requests.add_capture(capture_row(camera))
    for _ in range(8):
        await add_capture(db, camera)
    wanted = RequestFilter(camera_id=camera)
    before = {item.request_id for item in (await queries.list_requests(wanted, 200, None, who=ANONYMOUS)).items}
    assert len(before) == 31
    seen: list[tuple[datetime, UUID]] = []
    cursor = None
    while True:
        page = await queries.list_requests(wanted, 4, cursor, who=ANONYMOUS)
        seen += [(item.created_at, item.request_id) for item in page.items]
        await add_capture(db, camera)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert {row_id for _, row_id in seen} == before  # newer ones lie before the first page
    assert len(seen) == len(before)
    assert seen == sorted(seen, reverse=True)


async def test_pages_end_exactly(db: Database, queries: Queries) -> None:
    camera = unique()
    await fill(db, camera, [AT + timedelta(seconds=n) for n in range(6)])
    wanted = FrameFilter(camera_id=camera)
    for limit, sizes in ((6, [6]), (3, [3, 3]), (4, [4, 2]), (7, [6]), (1, [1] * 6)):
        cursor, found = None, []
        while True:
            page = await list_frames(queries, wanted, limit, cursor, who=ANONYMOUS)
            found.append(len(page.items))
            cursor = page.next_cursor
            if cursor is None:
                break
        assert found == sizes  # and never an empty page at the end
    empty = await list_frames(queries, FrameFilter(camera_id=unique()), 50, None, who=ANONYMOUS)
    assert (empty.items, empty.next_cursor) == ([], None)


async def test_bounds_of_time_are_inclusive_and_exclusive(db: Database, queries: Queries) -> None:
    camera = unique()
    await fill(db, camera, [AT + timedelta(seconds=n) for n in range(5)])
    page = await list_frames(
        queries,
        FrameFilter(camera_id=camera, from_=AT + timedelta(seconds=1), to=AT + timedelta(seconds=3)),
        50,
        None,
        who=ANONYMOUS,
    )
    assert [item.sequence for item in page.items] == [1, 2]
    request = (await queries.list_requests(RequestFilter(camera_id=camera), 1, None, who=ANONYMOUS)).items[0]
    at = request.created_at
    tick = timedelta(microseconds=1)
    for low, high, there in ((at, at + tick, True), (at + tick, None, False), (None, at, False), (at, None, True)):
        wanted = RequestFilter(camera_id=camera, created_from=low, created_to=high)
        found = await queries.list_requests(wanted, 9, None, ANONYMOUS)
        assert bool(found.items) is there


async def stored_apart(db: Database, request_id: UUID, count: int) -> None:
    """As if the request's frames had been stored a minute apart, the last slot first."""
    async with db.unit_of_work() as uow:
        await uow.session.execute(
            text(
                "UPDATE frames SET stored_at = CAST(:at AS timestamptz) + interval '1 minute' * (CAST(:n AS int) - sequence)"
                " WHERE request_id = :id"
            ),
            {"at": AT, "n": count, "id": request_id},
        )


@pytest.mark.parametrize("sorted_window", [10_000, 1], ids=["sorted", "by capture time"])
async def test_frames_by_when_they_were_stored(
    db: Database, queries: Queries, monkeypatch: pytest.MonkeyPatch, sorted_window: int
) -> None:
    monkeypatch.setattr(repositories.hot_reads, "SORTED_WINDOW", sorted_window)
    camera = unique()
    await stored_apart(db, await fill(db, camera, [AT + timedelta(seconds=n) for n in range(6)]), 6)

    async def sequences(low: int | None, high: int | None, **more: Any) -> list[int]:
        """Page by page; bounds in minutes after AT."""
        wanted = FrameFilter(
            camera_id=camera, stored_from=None if low is None else AT + timedelta(minutes=low),
            stored_to=None if high is None else AT + timedelta(minutes=high), **more,
        )  # fmt: skip
        found: list[int] = []
        cursor: str | None = None
        while True:
            page = await list_frames(queries, wanted, 2, cursor, who=ANONYMOUS)
            found += [item.sequence for item in page.items]
            if page.next_cursor is None:
                return found
            cursor = page.next_cursor

    assert await sequences(2, 5) == [2, 3, 4]  # stored at minutes 4, 3, 2: inclusive, exclusive, by capture time
    assert await sequences(2, 5, descending=True) == [4, 3, 2]
    assert await sequences(4, None) == [0, 1, 2]
    assert await sequences(None, 2) == [5]
    assert await sequences(2, 6, from_=AT + timedelta(seconds=3)) == [3, 4]
    assert await sequences(7, None) == []


async def test_a_cursor_is_good_for_its_own_filters_only(db: Database, queries: Queries) -> None:
    camera = unique()
    await fill(db, camera, [AT + timedelta(seconds=n) for n in range(4)])
    page = await list_frames(queries, FrameFilter(camera_id=camera), 2, None, who=ANONYMOUS)
    cursor = page.next_cursor
    assert cursor is not None
    for other in (
        FrameFilter(), FrameFilter(camera_id=camera, descending=True), FrameFilter(camera_id=camera, from_=AT),
        FrameFilter(camera_id=camera, source_type=SourceType.RTSP), FrameFilter(camera_id=camera, stored_from=AT),
        FrameFilter(camera_id=camera, stored_to=datetime(2100, 1, 1, tzinfo=UTC)),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest):
            await list_frames(queries, other, 2, cursor, who=ANONYMOUS)
    with pytest.raises(InvalidRequest):
        await queries.list_requests(RequestFilter(camera_id=camera), 2, cursor, who=ANONYMOUS)
    other_first = "B" if cursor[0] == "A" else "A"
    for forged in (cursor[:-4], other_first + cursor[1:], cursor + "AAAA", "null", "é"):
        with pytest.raises(InvalidRequest):
            await list_frames(queries, FrameFilter(camera_id=camera), 2, forged, who=ANONYMOUS)


async def test_nearest_is_the_closest_of_the_camera(db: Database, queries: Queries) -> None:
    camera, other = unique(), unique()
    request_id = await fill(db, camera, [AT, AT + timedelta(seconds=10), AT + timedelta(seconds=20)])
    await fill(db, other, [AT + timedelta(seconds=11)])
    for offset, slot, distance in ((0, 0, 0), (4, 0, 4000), (5, 0, 5000), (6, 1, 4000), (99, 2, 79000), (-99, 0, 99000)):
        found = await queries.nearest_frame(camera, AT + timedelta(seconds=offset), who=ANONYMOUS)
        assert (found.sequence, found.distance_ms) == (slot, distance)
    async with db.unit_of_work() as uow:
        await uow.frames.begin_delete(frame_id(request_id, 1, AT + timedelta(seconds=10)), cameras=ALL_CAMERAS)
    assert (await queries.nearest_frame(camera, AT + timedelta(seconds=11), who=ANONYMOUS)).sequence == 2
    with pytest.raises(FrameNotFound):
        await queries.nearest_frame(unique(), AT, who=ANONYMOUS)


# -- plans -------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module")
async def big(backends: Backends) -> AsyncIterator[Database]:
    """A database with enough rows that a planner has to think, analysed."""
    own = await migrated_database(backends.db, f"plans_{secrets.token_hex(5)}")
    own = own.model_copy(update={"STATEMENT_TIMEOUT": 120})  # filling it takes a second, on a busy machine ten
    made = Database(own, "trackshift-plans")
    async with made.unit_of_work() as uow:
        for table in ("ingestion_requests", "frames"):  # events of none of them are wanted
            await uow.session.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        await uow.session.execute(
            text("""
            INSERT INTO ingestion_requests (id, camera_id, source_type, capture_mode, status, created_at, completed_at, meta)
            SELECT gen_random_uuid(), 'cam-' || n % 50, CASE WHEN n % 4 = 0 THEN 'upload' ELSE 'rtsp' END,
                   CASE WHEN n % 4 = 0 THEN NULL WHEN n % 4 = 1 THEN 'continuous' ELSE 'single_frame' END,
                   CASE n % 100 WHEN 0 THEN 'failed' WHEN 1 THEN 'pending' ELSE 'completed' END,
                   timestamptz '2026-01-01' + n * interval '1 minute', now(),
                   CASE WHEN n % 3 = 0 THEN jsonb_build_object(
                       'subject', 'car-' || n % 20, 'session', 'FP' || n % 4,
                       'phase', CASE n % 2 WHEN 0 THEN 'before' ELSE 'after' END)
                   ELSE '{}' END
            FROM generate_series(1, 12000) AS n""")
        )
        await uow.session.execute(
            text("""
            INSERT INTO frames (id, request_id, camera_id, source_type, sequence, storage_path, capture_timestamp,
                                timestamp_source, width, height, size_bytes, format, content_type, sha256, state, stored_at,
                                meta, quality)
            SELECT gen_random_uuid(), r.id, r.camera_id, r.source_type, n, r.id || '/' || n,
                   r.created_at + n * interval '1 second', 'receipt', 1, 1, 1, 'jpg', 'image/jpeg', :sha,
                   CASE WHEN n = 2 THEN 'deleted' ELSE 'stored' END, r.created_at + n * interval '1 second',
                   r.meta, jsonb_build_object('verdict', CASE WHEN extract(minute FROM r.created_at) = 7 THEN 'bad'
                       WHEN extract(minute FROM r.created_at) = 8 THEN 'suspect' ELSE 'good' END)
            FROM ingestion_requests r, generate_series(0, 2) AS n"""),
            {"sha": SHA},
        )
    async with made.engine.connect() as connection:
        await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(text("ANALYZE"))
    yield made
    await made.close()


async def plan_of_hot(db: Database, call: Callable[[HotReads], Awaitable[Any]]) -> list[dict[str, Any]]:
    """The plans' nodes of the statements that a hot read runs, as PostgreSQL would run them."""
    statements: list[tuple[str, Any]] = []

    class Spy:
        async def read(self, work: Callable[[asyncpg.Connection], Awaitable[Any]]) -> Any:
            async def spied(connection: asyncpg.Connection) -> Any:
                await work(connection)  # a new connection asks for its types first
                with connection.query_logger(lambda query: statements.append((query.query, tuple(query.args)))):
                    return await work(connection)

            return await db.hot._reader.read(spied)

    await call(HotReads(Spy()))  # type: ignore[arg-type]
    return await nodes_of(db, statements)


async def plan_of(db: Database, call: Any) -> list[dict[str, Any]]:
    """The plans' nodes of the statement that `call(uow)` runs, as PostgreSQL would run it."""
    statements: list[tuple[str, Any]] = []
    sync = db.engine.sync_engine

    def spy(_c: Any, _cur: Any, statement: str, parameters: Any, _ctx: Any, _many: Any) -> None:
        statements.append((statement, parameters))

    event.listen(sync, "before_cursor_execute", spy)
    try:
        async with db.unit_of_work() as uow:
            await call(uow)
    finally:
        event.remove(sync, "before_cursor_execute", spy)
    return await nodes_of(db, statements)


async def nodes_of(db: Database, statements: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = []

    def walk(node: dict[str, Any]) -> None:
        nodes.append(node)
        for child in node.get("Plans", []):
            walk(child)

    async with db.engine.connect() as connection:
        # With a few hundred rows left it would rather sort them, which says nothing about millions.
        await connection.execute(text("SET LOCAL enable_sort = off"))
        await connection.execute(text("SET LOCAL enable_bitmapscan = off"))
        for statement, parameters in statements:
            answer = await connection.exec_driver_sql("EXPLAIN (ANALYZE, FORMAT JSON) " + statement, parameters)
            found: Any = answer.scalar()
            walk((json.loads(found) if isinstance(found, str) else found)[0]["Plan"])
        await connection.rollback()
    return nodes


REQUEST_FILTERS = [
    RequestFilter(),
    RequestFilter(camera_id="cam-7"),
    RequestFilter(status=IngestionStatus.PENDING),
    RequestFilter(status=IngestionStatus.COMPLETED),
    RequestFilter(source_type=SourceType.UPLOAD),
    RequestFilter(capture_mode=CaptureMode.CONTINUOUS),
    RequestFilter(created_from=datetime(2026, 1, 5, tzinfo=UTC), created_to=datetime(2026, 1, 7, tzinfo=UTC)),
    RequestFilter(camera_id="cam-7", created_to=datetime(2026, 1, 7, tzinfo=UTC)),
    RequestFilter(subject="car-3"),
    RequestFilter(session="FP1"),
    RequestFilter(phase=Phase.AFTER),
]
FRAME_FILTERS = [
    FrameFilter(),
    FrameFilter(descending=True),
    FrameFilter(camera_id="cam-7"),
    FrameFilter(camera_id="cam-7", descending=True),
    FrameFilter(source_type=SourceType.UPLOAD),
    FrameFilter(from_=datetime(2026, 1, 5, tzinfo=UTC), to=datetime(2026, 1, 7, tzinfo=UTC)),
    FrameFilter(camera_id="cam-7", from_=datetime(2026, 1, 5, tzinfo=UTC), descending=True),
    FrameFilter(subject="car-3"),
    FrameFilter(session="FP1", descending=True),
    FrameFilter(phase=Phase.AFTER),
    FrameFilter(quality=QualityVerdict.BAD),
    FrameFilter(quality=QualityVerdict.SUSPECT, descending=True),
    FrameFilter(camera_id="cam-7", quality=QualityVerdict.BAD),
    FrameFilter(camera_id="cam-7", quality=QualityVerdict.GOOD),
]
MIDDLE = (datetime(2026, 1, 6, tzinfo=UTC), UUID(int=1 << 127))


def assert_indexed(nodes: list[dict[str, Any]], most_rows: int) -> None:
    kinds = [node["Node Type"] for node in nodes]
    assert not any(kind in ("Seq Scan", "Sort", "Incremental Sort") for kind in kinds), kinds
    assert any(kind.startswith(("Index", "Bitmap")) for kind in kinds)
    # The same cost at any depth: what is read is about what is shown (four times for a value that a quarter has).
    read = max(node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in nodes if "Scan" in node["Node Type"])
    assert read <= most_rows, nodes


@pytest.mark.parametrize("wanted", REQUEST_FILTERS, ids=str)
@pytest.mark.parametrize("after", [None, MIDDLE], ids=["first", "deep"])
async def test_lists_of_requests_use_an_index(big: Database, wanted: RequestFilter, after: Any) -> None:
    nodes = await plan_of(big, lambda uow: uow.requests.find(wanted, after=after, limit=51, cameras=ALL_CAMERAS))
    assert_indexed(nodes, 300)


@pytest.mark.parametrize("wanted", FRAME_FILTERS, ids=str)
@pytest.mark.parametrize("after", [None, MIDDLE], ids=["first", "deep"])
async def test_lists_of_frames_use_an_index(big: Database, wanted: FrameFilter, after: Any) -> None:
    nodes = await plan_of_hot(big, lambda hot: hot.frames(wanted, ALL_CAMERAS, after=after, limit=51))
    assert_indexed(nodes, 300)


@pytest.mark.parametrize("camera_id", [None, "cam-7"])
async def test_frames_of_a_short_window_of_storing_are_read_by_its_index(big: Database, camera_id: str | None) -> None:
    """Not by capture time, where all older frames would be passed over."""
    start = datetime(2026, 1, 8, tzinfo=UTC)
    wanted = FrameFilter(camera_id=camera_id, stored_from=start, stored_to=start + timedelta(hours=1))
    nodes = await plan_of_hot(big, lambda hot: hot.frames(wanted, ALL_CAMERAS, after=None, limit=51))
    read = [node for node in nodes if "Scan" in node["Node Type"] and node["Node Type"] != "Subquery Scan"]
    assert {"stored_at" in node.get("Index Name", "") for node in read} == {True}, nodes
    assert all(node["Actual Rows"] + node.get("Rows Removed by Filter", 0) <= 130 for node in read), nodes


async def test_other_reads_use_an_index(big: Database) -> None:
    async with big.unit_of_work() as uow:
        request_id = await uow.session.scalar(text("SELECT id FROM ingestion_requests WHERE camera_id = 'cam-7' LIMIT 1"))
    reads: list[Any] = [
        lambda uow: uow.frames.of_request(request_id, newest_first=True, limit=100),
        lambda uow: uow.frames.nearest("cam-7", MIDDLE[0], ALL_CAMERAS),
        lambda uow: uow.frames.deleting(limit=100, older_than_s=1),
        lambda uow: uow.requests.get(request_id),
        lambda uow: uow.requests.is_final(request_id),
        lambda uow: uow.requests.gaps(request_id),
    ]
    hot_reads: list[Any] = [
        lambda hot: hot.frames(FrameFilter(request_id=request_id), ALL_CAMERAS, after=None, limit=51),
        lambda hot: hot.request(request_id, ALL_CAMERAS, newest=100),
    ]
    plans = [await plan_of(big, read) for read in reads] + [await plan_of_hot(big, read) for read in hot_reads]
    for nodes in plans:
        read_whole = {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"}
        assert read_whole <= {"capture_gaps", "capture_leases"}, nodes  # which are empty here
    nodes = await plan_of_hot(big, lambda hot: hot.count_pending(10_000))
    assert not any(node["Node Type"] == "Seq Scan" for node in nodes)


# -- the unit of work --------------------------------------------------------------------------------------------


async def test_a_block_that_raises_changes_nothing(db: Database) -> None:
    row = capture_row()
    with pytest.raises(RuntimeError):  # noqa: PT012
        async with db.unit_of_work() as uow:
            await uow.requests.add_capture(row)
            raise RuntimeError
    async with db.unit_of_work() as uow:
        assert await uow.requests.get(row.id) is None


async def test_unavailable_is_told_from_wrong(db: Database, backends: Backends) -> None:
    async def killed(uow: UnitOfWork) -> None:
        await uow.session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(DatabaseUnavailable):
        async with db.unit_of_work() as uow:
            await killed(uow)
    with pytest.raises(Exception, match="nonsense") as caught:
        async with db.unit_of_work() as uow:
            await uow.session.execute(text("SELECT nonsense"))
    assert not isinstance(caught.value, DatabaseUnavailable)
    nowhere = Database(backends.db.model_copy(update={"HOST": "127.0.0.1", "PORT": 1}))
    with pytest.raises(DatabaseUnavailable):
        await nowhere.version()
    await nowhere.close()
    assert await db.version()


async def test_an_unknown_commit_is_run_again(db: Database) -> None:
    row = capture_row()
    tries = 0

    async def work(uow: UnitOfWork) -> str:
        nonlocal tries
        tries += 1
        await uow.requests.add_capture(row)
        if tries == 1:  # the connection goes after the work, before the COMMIT is known
            await uow.session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return "done"

    assert await db.retry_until_known(work, pause=0.01) == "done"
    assert tries == 2
    assert (await row_of(db, row.id)).status == "pending"

    async def never(_uow: UnitOfWork) -> None:
        raise DatabaseUnavailable

    with pytest.raises(DatabaseUnavailable):
        await db.retry_until_known(never, tries=2, pause=0.01)


async def test_error_texts_do_not_carry_values(db: Database) -> None:
    """Invariant 5: a failing INSERT must not write a camera's URL into the log."""
    row = capture_row()
    row.rtsp_url = "rtsp://user:S3cr3t@host/x"
    row.status = "nonsense"
    with pytest.raises(Exception) as caught:
        async with db.unit_of_work() as uow:
            await uow.requests.add_capture(row)
    assert "S3cr3t" not in str(caught.value)
    assert count_slots([]) == 0
