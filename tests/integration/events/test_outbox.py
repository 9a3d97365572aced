"""The event log on a real PostgreSQL (docs/rules.md, rule 12): events follow rows, and no reader ever misses one."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from sqlalchemy import text

from config import DbSettings
from models import schemas
from models.access import ALL_CAMERAS, CameraGrant
from models.values import CaptureError, DropReason, IngestionStatus, LogEventType, LogFilter, SourceType
from repositories.database import Database, UnitOfWork
from repositories.event_log import LOCK_KEY
from repositories.frames import Removal
from services.events import event_log
from services.events.event_log import EventLog, LogPage, Newest, Position, Start
from services.events.outbox_relay import LogHead, OutboxRelay
from services.reads.serializers.frames import to_frame_info
from services.reads.serializers.requests import to_summary
from services.storage_service.presign import Presigned
from tests.conftest import SECRETS_KEY, Backends, migrated_database
from tests.integration.storage.test_repositories import AT, add_capture, capture_row, frame, take, upload_row
from tests.kits.service_support import until
from tests.kits.uploads import upload_of
from utils.exceptions import CursorExpired, InvalidRequest
from utils.secret_box import SecretBox

WEEK = 604_800.0
NOT_TOLD = {"storage_url", "url_expires_at", "held_at", "hold_reason"}  # URLs; holds begin after a frame is stored


@dataclass
class Log:
    """A database of its own, its log, and a reader of it."""

    settings: DbSettings
    db: Database
    head: LogHead = field(default_factory=LogHead)

    def __post_init__(self) -> None:
        self.log = EventLog(self.db, self.head, 10)

    async def relay(self, at_most: int = 1000) -> int:
        async with self.db.one_statement() as uow:
            done = await uow.event_log.relay(at_most)
        self.head.publish(done.log_id, done.head)
        return done.moved

    async def all(self, start: Start = "oldest", wanted: LogFilter | None = None) -> list[dict[str, Any]]:
        """Every event there is, page by page, as CloudEvents read them."""
        found: list[dict[str, Any]] = []
        while True:
            page = await self.log.page(start, wanted or LogFilter(ALL_CAMERAS), 7)
            found += decoded(page)
            if not page.behind:
                return found
            start = page.position

    async def sql(self, statement: str, **values: Any) -> Any:
        async with self.db.unit_of_work() as uow:
            return await uow.session.execute(text(statement), values)


def decoded(page: LogPage) -> list[dict[str, Any]]:
    found = []
    for item in page.events:
        event = JSONFormat().read(CloudEvent, item.body)
        assert event.get_source() == "/trackshift/ingestion"
        data = event.get_data()
        assert isinstance(data, dict)
        assert (event.get_id(), event.get_type()) == (item.id, item.type)
        assert event.get_extension("cameraid") == data["camera_id"]
        found.append({"seq": int(item.id.split(".")[1]), "type": item.type, "subject": event.get_subject(), "data": data})
    return found


@pytest_asyncio.fixture
async def log(backends: Backends) -> AsyncIterator[Log]:
    settings = await migrated_database(backends.db, f"outbox_{secrets.token_hex(5)}")
    db = Database(settings, "trackshift-outbox")
    yield Log(settings, db)
    await db.close()


@asynccontextmanager
async def relaying(log: Log, count: int = 1, retention: float = WEEK) -> AsyncIterator[None]:
    """Relays as `count` processes would run them, each with a pool of its own; the first wakes the log's readers."""
    pools = [log.db] + [Database(log.settings, f"relay-{n}") for n in range(1, count)]
    relays = [OutboxRelay(pool, log.head if pool is log.db else LogHead(), retention) for pool in pools]
    for relay in relays:
        relay.start()
    try:
        yield
    finally:
        for relay in relays:
            await relay.stop()
        for pool in pools[1:]:
            await pool.close()


async def store(uow: UnitOfWork, request_id: UUID, slot: int, camera_id: str = "cam") -> None:
    await uow.ledger.record(request_id, [frame(request_id, slot, camera_id=camera_id)], {}, slot + 1)


# -- events follow rows ------------------------------------------------------------------------------------------------


async def test_an_upload_tells_what_its_rows_say(log: Log) -> None:
    row = upload_row("paddock")
    row.meta = {"session": "FP1"}
    frames = [
        frame(row.id, slot, camera_id="paddock", source_type=SourceType.UPLOAD, filename="ü.jpg", exif={"make": "X"},
              meta={"session": "FP1"}, timestamp_uncertainty_ms=None, camera_timestamp=AT + timedelta(microseconds=1))
        for slot in range(3)
    ]  # fmt: skip
    for _ in range(2):  # the second run is a no-op, as after an unknown COMMIT: nothing is told twice
        async with log.db.unit_of_work() as uow:
            await uow.requests.add_upload(upload_of(row, frames, [3]))
    assert await log.relay() == 5
    started, *stored, completed = await log.all()
    assert (started["type"], completed["type"]) == ("request.started", "request.completed")
    assert [event["seq"] for event in (started, *stored, completed)] == [1, 2, 3, 4, 5]
    box = SecretBox([SECRETS_KEY])
    async with log.db.unit_of_work() as uow:
        kept = await uow.requests.get(row.id)
        rows = await uow.frames.of_request(row.id, newest_first=False, limit=10)
    assert kept is not None
    for event, item in zip(stored, rows, strict=True):
        shown = to_frame_info(item, Presigned("http://x", AT)).model_dump(mode="json")
        assert event["data"] == {name: shown[name] for name in shown.keys() - NOT_TOLD}
        assert event["subject"] == str(item.id)
    summary = to_summary(kept, [], box).model_dump(mode="json")
    told = completed["data"]
    assert told["progress"] | {"gaps": []} == summary["progress"]
    others = told.keys() - {"progress"}
    assert {name: told[name] for name in others} == {name: summary[name] for name in others}
    for each in (await log.log.page("oldest", LogFilter(ALL_CAMERAS), 9)).events:
        schemas.CloudEvent.model_validate_json(each.body)


async def test_a_capture_tells_its_life_and_nothing_else(log: Log) -> None:
    request_id = await add_capture(log.db)
    claim = await take(log.db, request_id)
    end = AT + timedelta(seconds=9)
    error = CaptureError("read_timeout", "The camera sent nothing.", True, AT)

    async def work(change: Callable[[UnitOfWork], Awaitable[object]]) -> None:
        async with log.db.unit_of_work() as uow:
            await change(uow)

    await work(lambda uow: uow.captures.open_gap(claim, AT, "read_timeout"))
    await work(lambda uow: uow.captures.open_gap(claim, AT, "read_timeout"))  # open already: no event
    await work(lambda uow: uow.captures.close_gap(claim, AT + timedelta(seconds=2)))
    await work(lambda uow: uow.captures.close_gap(claim, AT + timedelta(seconds=3)))
    for slot in (0, 1, 1, 0):
        await work(lambda uow, slot=slot: store(uow, request_id, slot))  # type: ignore[misc]
    await work(lambda uow: uow.ledger.record(request_id, [], {DropReason.CAMERA_DOWN: [2]}, 3))
    await work(lambda uow: uow.captures.set_error(claim, error))
    again = await take(log.db, request_id, "another")  # taken over: it was started once
    await work(lambda uow: uow.captures.open_gap(again, AT + timedelta(seconds=5), "lease_lost"))
    await work(
        lambda uow: uow.captures.finish(
            again, IngestionStatus.FAILED, expected=4, rest=DropReason.LEASE_LOST, error=error, gap_end=end
        )
    )
    first = await log.sql("SELECT id FROM frames WHERE request_id = :id AND sequence = 0", id=request_id)
    frame_id = first.scalar_one()
    for _ in range(2):
        await work(lambda uow: uow.frames.begin_delete(frame_id, cameras=ALL_CAMERAS))
    await work(lambda uow: uow.frames.finish_deletes([Removal(frame_id, "x")]))
    await log.relay()
    events = await log.all()
    assert [event["type"] for event in events] == [
        "request.started", "camera.gap_opened", "camera.gap_closed", "frame.stored", "frame.stored", "camera.gap_opened",
        "camera.gap_closed", "request.failed", "frame.deleted",
    ]  # fmt: skip
    opened, closed, failed, deleted = (events[n]["data"] for n in (1, 2, 7, 8))
    assert (opened["from"], opened["to"]) == ("2026-05-04T13:30:00.000000Z", None)
    assert closed == opened | {"to": "2026-05-04T13:30:02.000000Z"}
    assert failed["error"] == error.to_json() | {"at": "2026-05-04T13:30:00.000000Z"}
    assert failed["progress"]["dropped"] == {"camera_down": 1, "lease_lost": 1}
    assert (failed["progress"]["expected"], failed["progress"]["stored"], failed["progress"]["in_flight"]) == (4, 2, 0)
    assert (deleted["frame_id"], deleted["sequence"]) == (str(frame_id), 0)
    assert "rtsp" not in str([event["data"] for event in events]).replace("'source_type': 'rtsp'", "")


TOLD: dict[str, Any] = {"filename": "jane-doe.jpg", "exif": {"gps": {"lat": 45.6, "lon": 9.2}}, "meta": {"location": "home"}}
BLANK: dict[str, Any] = {"filename": None, "exif": None, "meta": {}}


async def one_upload(log: Log, frames: int = 1) -> tuple[UUID, list[UUID]]:
    """An upload with something to tell; its request and its frames."""
    row = upload_row("paddock")
    made = [frame(row.id, n, camera_id="paddock", source_type=SourceType.UPLOAD, **TOLD) for n in range(frames)]
    async with log.db.unit_of_work() as uow:
        await uow.requests.add_upload(upload_of(row, made, []))
    return row.id, [item.frame_id for item in made]


async def shown_events(log: Log) -> dict[str, dict[str, Any]]:
    """What the frame.stored events tell of their frames, by frame."""
    await log.relay()
    stored = [event for event in await log.all() if event["type"] == "frame.stored"]
    return {event["subject"]: {name: event["data"][name] for name in BLANK} for event in stored}


@pytest.mark.parametrize("moved", [True, False], ids=["in the log", "pending"])
async def test_a_deleted_frame_is_blank_and_so_is_its_event(log: Log, moved: bool) -> None:
    request_id, (gone, kept) = await one_upload(log, 2)
    await log.sql(
        """INSERT INTO upload_sessions (id, request_id, camera_id, filename, meta, size_bytes, expires_at)
        VALUES (gen_random_uuid(), :id, 'paddock', 'jane-doe.jpg', '{"location": "home"}', 9, now())""", id=request_id
    )  # fmt: skip
    if moved:
        await log.relay()
    async with log.db.unit_of_work() as uow:
        assert await uow.frames.begin_delete(gone, cameras=ALL_CAMERAS)
    rows = await log.sql("SELECT id, filename, exif, meta, sha256 FROM frames WHERE state <> 'stored'")
    assert [tuple(row) for row in rows] == [(gone, None, None, {}, frame(request_id, 0).sha256)]
    told = await shown_events(log)
    assert (told[str(gone)], told[str(kept)]) == (BLANK, TOLD)
    (session,) = await log.sql("SELECT filename, meta FROM upload_sessions")
    assert tuple(session) == ("", {})
    for table in ("frames", "events", "outbox_pending", "upload_sessions"):
        left = await log.sql(f"SELECT count(*) FROM {table} t WHERE t::text LIKE '%jane-doe%'")
        assert left.scalar_one() == (1 if table in ("frames", "events") else 0), table  # the other frame's


async def test_a_delete_waits_for_the_relay_that_moves_its_event(log: Log) -> None:
    """And deletes of many frames, the relay and the removal of old events do not wait for each other in a circle."""
    _, (gone,) = await one_upload(log)

    async def delete() -> None:
        async with log.db.unit_of_work() as uow:
            await uow.frames.begin_delete(gone, cameras=ALL_CAMERAS)

    async with log.db.unit_of_work() as uow:
        assert (await uow.event_log.relay(10)).moved == 3  # and not committed
        deleting = asyncio.create_task(delete())
        await asyncio.sleep(0.2)
        assert not deleting.done()
    await deleting
    assert await shown_events(log) == {str(gone): BLANK}


async def test_a_delete_that_is_rolled_back_blanks_nothing(log: Log) -> None:
    _, (frame_id,) = await one_upload(log)
    await log.relay()
    with suppress(ZeroDivisionError):
        async with log.db.unit_of_work() as uow:
            await uow.frames.begin_delete(frame_id, cameras=ALL_CAMERAS)
            raise ZeroDivisionError
    assert await shown_events(log) == {str(frame_id): TOLD}


async def test_the_event_of_a_frame_is_found_by_an_index(log: Log) -> None:
    await log.sql(
        """INSERT INTO events (seq, type, camera_id, event)
        SELECT n, 'frame.stored', 'c', jsonb_build_object('subject', n::text) FROM generate_series(1, 2000) AS n"""
    )
    await log.sql("ANALYZE events")
    plan = await log.sql(
        "EXPLAIN SELECT seq FROM events e WHERE e.type = 'frame.stored' AND e.event ->> 'subject' = ANY (ARRAY['a', 'b'])"
    )
    assert "ix_events_frame_stored" in str(plan.all())


async def test_gaps_snapshots_and_cancels(log: Log) -> None:
    request_id = await add_capture(log.db)
    async with log.db.unit_of_work() as uow:
        await uow.session.execute(
            text(
                "INSERT INTO capture_gaps (id, request_id, from_at, to_at, reason)"
                " VALUES (gen_random_uuid(), :id, :a, :b, 'camera_down')"
            ),
            {"id": request_id, "a": AT, "b": AT + timedelta(seconds=1)},
        )
        await uow.captures.request_cancel(request_id, cameras=ALL_CAMERAS)
    row = capture_row("snap")
    row.source, row.grid_start, row.meta = {}, AT, {}
    async with log.db.unit_of_work() as uow:
        await uow.requests.add_snapshot(row, frame(row.id, 0, camera_id="snap"))
    await log.relay()
    assert [event["type"] for event in await log.all()] == [
        "camera.gap_opened", "camera.gap_closed", "request.cancelled",
        "request.started", "frame.stored", "request.completed",
    ]  # fmt: skip


async def test_what_is_rolled_back_is_not_told(log: Log) -> None:
    request_id = await add_capture(log.db)

    async def work() -> None:
        async with log.db.unit_of_work() as uow:
            await store(uow, request_id, 0)
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        await work()
    assert await log.relay() == 0
    assert await log.all() == []


# -- nothing is skipped ------------------------------------------------------------------------------------------------


class Bare:
    """How it would be without the relay: a reader that follows the sequence of the rows as they were written."""

    def __init__(self, log: Log) -> None:
        self.log, self.after, self.seen = log, 0, list[str]()

    async def look(self) -> None:
        rows = await self.log.sql(
            "SELECT id, event ->> 'subject' AS subject FROM outbox_pending WHERE id > :after ORDER BY id", after=self.after
        )
        for row in rows:
            self.after = row.id
            self.seen.append(row.subject)


class Reader:
    """A consumer of the log."""

    def __init__(self, log: Log) -> None:
        self.log, self.start, self.seen = log, "oldest", list[str]()  # type: tuple[Log, Start, list[str]]

    async def look(self) -> None:
        await self.log.relay()
        page = await self.log.log.page(self.start, LogFilter(ALL_CAMERAS), 1000)
        self.start = page.position
        self.seen += [event["subject"] for event in decoded(page)]


@pytest.mark.parametrize(("kind", "whole"), [(Reader, True), (Bare, False)])
async def test_a_late_committer_is_not_skipped(log: Log, kind: type[Reader | Bare], whole: bool) -> None:
    """A takes the lower number and commits last. The sequence alone loses its event: that is why there is a relay."""
    first, second = await add_capture(log.db), await add_capture(log.db)
    reader = kind(log)
    taken, go = asyncio.Event(), asyncio.Event()

    async def late() -> None:
        async with log.db.unit_of_work() as uow:
            await store(uow, first, 0)
            taken.set()
            await go.wait()

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        writer = tasks.create_task(late())
        await taken.wait()
        async with log.db.unit_of_work() as uow:
            await store(uow, second, 0)
        await reader.look()
        assert len(reader.seen) == 1
        go.set()
        await writer
    await reader.look()
    assert (len(reader.seen) == 2) is whole


async def test_eight_writers_two_relays_and_one_reader(log: Log) -> None:
    """Commits in any order, some rolled back, two relays at once: whole, once each, a request's in its order."""
    requests = [await add_capture(log.db) for _ in range(8)]
    committed: list[set[str]] = [set() for _ in requests]

    async def write(writer: int, request_id: UUID) -> None:
        chance = random.Random(writer)
        for slot in range(60):
            try:
                async with log.db.unit_of_work() as uow:
                    await store(uow, request_id, slot)
                    await asyncio.sleep(chance.random() * 0.02)
                    if chance.random() < 0.1:
                        raise RuntimeError
                    new = str(frame(request_id, slot).frame_id)
                committed[writer].add(new)
            except RuntimeError:
                pass

    seen: list[dict[str, Any]] = []
    done = asyncio.Event()

    async def read() -> None:
        start: Start = "oldest"
        while True:
            last = done.is_set() and await pending(log) == 0  # asked before the read: what is moved after it is in none
            page = await log.log.page(start, LogFilter(ALL_CAMERAS), 50, 0.05)
            seen.extend(decoded(page))
            start = page.position
            if last and not page.events:
                return

    async with asyncio.timeout(60), relaying(log, 2), asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        async with asyncio.TaskGroup() as writers:
            for number, request_id in enumerate(requests):
                writers.create_task(write(number, request_id))
        done.set()
    assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
    assert Counter(event["subject"] for event in seen) == Counter(set().union(*committed))
    for request_id in requests:
        slots = [event["data"]["sequence"] for event in seen if event["data"]["request_id"] == str(request_id)]
        assert slots == sorted(slots)


async def pending(log: Log) -> int:
    return int((await log.sql("SELECT count(*) FROM outbox_pending")).scalar_one())


async def test_a_relay_that_dies_in_mid_transaction_changes_nothing(log: Log) -> None:
    request_id = await add_capture(log.db)
    async with log.db.unit_of_work() as uow:
        for slot in range(5):
            await store(uow, request_id, slot)
    doomed = await log.db.engine.connect()
    await doomed.begin()
    assert (await doomed.execute(text("SELECT moved FROM relay_events(3)"))).scalar_one() == 3
    async with log.db.one_statement() as uow:
        assert (await uow.event_log.relay(1000)).busy
    backend = (await doomed.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    await log.sql("SELECT pg_terminate_backend(:pid)", pid=backend)

    async def moved() -> int:
        return await log.relay(2)

    await until(moved, "the next relay's turn", 5)
    while await log.relay(2):
        pass
    assert [event["data"]["sequence"] for event in await log.all()] == [0, 1, 2, 3, 4]
    await doomed.invalidate()
    await doomed.close()


async def test_a_waiting_reader_holds_no_connection_and_wakes(log: Log) -> None:
    request_id = await add_capture(log.db)
    clock = asyncio.get_running_loop().time
    async with relaying(log):
        waiting = [asyncio.create_task(log.log.page("latest", LogFilter(ALL_CAMERAS), 10, 20)) for _ in range(30)]
        await until(lambda: _true(log.head.waiting == 30), "all wait")
        pool: Any = log.db.engine.pool
        await until(lambda: _true(pool.checkedout() == 1), "the relay's connection alone is used")
        began = clock()
        async with log.db.unit_of_work() as uow:
            await store(uow, request_id, 0)
        pages = await asyncio.gather(*waiting)
        assert clock() - began < 0.9  # sooner than the poll of a relay that nobody woke
        assert all(len(page.events) == 1 for page in pages)
        assert len({id(page) for page in pages}) < 30  # they ask for the same at the same time: read once
        other = Database(log.settings, "another-process")
        task = asyncio.create_task(log.log.page(pages[0].position, LogFilter(ALL_CAMERAS), 10, 20))
        await until(lambda: _true(log.head.waiting == 1), "it waits")
        began = clock()
        async with other.unit_of_work() as uow:  # nobody tells this process
            await store(uow, request_id, 1)
        assert len((await task).events) == 1
        assert clock() - began < 0.9  # sooner than the poll of a relay that nobody woke
        await other.close()


async def _true(value: bool) -> bool:
    return value


# -- cursors, filters, retention ---------------------------------------------------------------------------------------


async def fill(log: Log, count: int, camera_id: str = "cam") -> UUID:
    request_id = await add_capture(log.db, camera_id)
    async with log.db.unit_of_work() as uow:
        frames = [frame(request_id, slot, camera_id=camera_id) for slot in range(count)]
        await uow.ledger.record(request_id, frames, {}, count)
    await log.relay()
    return request_id


async def test_filters_do_not_make_a_reader_look_twice(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "SCAN", 10)
    monkeypatch.setattr(event_log, "SCANS", 3)
    monkeypatch.setattr(event_log, "BATCH", 4)
    await fill(log, 45, "a")
    await log.sql("UPDATE ingestion_requests SET status = 'in_progress', started_at = now() WHERE camera_id = 'a'")
    await fill(log, 5, "b")
    log_id = (await log.log.page("oldest", LogFilter(ALL_CAMERAS), 1)).position.log_id
    wanted = LogFilter(ALL_CAMERAS, (LogEventType.REQUEST_STARTED,))
    page = await log.log.page("oldest", wanted, 10)
    assert (page.events, page.behind, page.position) == ([], True, Position(log_id, 30))
    page = await log.log.page(page.position, wanted, 10)
    assert ([event["seq"] for event in decoded(page)], page.behind, page.position) == ([46], False, Position(log_id, 51))
    only_b = await log.log.page("oldest", LogFilter(ALL_CAMERAS, None, "b"), 3)
    assert ([event["seq"] for event in decoded(only_b)], only_b.behind) == ([47, 48, 49], True)
    stored = LogFilter(ALL_CAMERAS, (LogEventType.FRAME_STORED,), "b")
    assert [e["seq"] for e in await log.all(wanted=stored)] == [47, 48, 49, 50, 51]
    nobody = await log.log.page("oldest", LogFilter(ALL_CAMERAS, None, "nobody"), 3)
    assert (nobody.events, nobody.behind, nobody.position.seq) == ([], False, 51)
    monkeypatch.setattr(event_log, "PAGE_BYTES", 1)
    assert len((await log.log.page("oldest", LogFilter(ALL_CAMERAS), 100)).events) == 4


async def test_the_newest_events_are_read_from_the_end(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "SCAN", 10)
    monkeypatch.setattr(event_log, "SCANS", 4)
    monkeypatch.setattr(event_log, "BATCH", 4)
    await fill(log, 5, "b")
    await log.sql("UPDATE ingestion_requests SET status = 'in_progress', started_at = now() WHERE camera_id = 'b'")
    await fill(log, 30, "a")  # after the event of the start: 6

    async def newest(count: int, wanted: LogFilter) -> list[int]:
        page = await log.log.page(Newest(count), wanted, 3)
        assert (page.position.seq, page.behind) == (36, False)  # the end, whatever was found
        return [event["seq"] for event in decoded(page)]

    everything, only_b = LogFilter(ALL_CAMERAS), LogFilter(ALL_CAMERAS, None, "b")
    assert await newest(1, everything) == [36]
    assert await newest(10, everything) == [*range(27, 37)]  # three statements, oldest first
    assert await newest(16, everything) == [*range(21, 37)]  # as many statements as one page may have
    assert await newest(17, everything) == [*range(21, 37)]
    assert await newest(3, only_b) == [4, 5, 6]
    assert await newest(9, only_b) == [*range(1, 7)]
    assert await newest(9, LogFilter(ALL_CAMERAS, (LogEventType.REQUEST_STARTED,))) == [6]
    of_b = LogFilter(CameraGrant(("b",)), (LogEventType.FRAME_STORED,))
    assert await newest(9, of_b) == [*range(2, 6)]  # the fourth statement, the last of a page, gives four
    assert await newest(9, LogFilter(ALL_CAMERAS, None, "nobody")) == []
    monkeypatch.setattr(event_log, "SCANS", 2)
    assert await newest(9, LogFilter(ALL_CAMERAS, (LogEventType.REQUEST_STARTED,))) == []  # beyond what is looked at
    monkeypatch.setattr(event_log, "PAGE_BYTES", 1)
    assert await newest(9, everything) == [33, 34, 35, 36]
    waiting = asyncio.create_task(log.log.page(Newest(5), LogFilter(ALL_CAMERAS, None, "late"), 10, 20))
    async with relaying(log):
        await until(lambda: _true(log.head.waiting == 1), "it waits")
        await fill(log, 1, "late")
        assert [event["seq"] for event in decoded(await waiting)] == [37]


async def test_what_is_too_old_goes_and_its_cursors_say_so(log: Log) -> None:
    await fill(log, 10)
    page = await log.log.page("oldest", LogFilter(ALL_CAMERAS), 1)
    await log.sql("UPDATE events SET created_at = now() - interval '2 hours' WHERE seq <= 6 OR seq = 9")
    async with log.db.one_statement() as uow:
        assert await uow.event_log.expire(3600, 4) == 4
        assert await uow.event_log.expire(3600, 4) == 2  # 9 is as old, but 7 and 8 are not: no holes
        assert await uow.event_log.expire(3600, 4) == 0
    with pytest.raises(CursorExpired) as expired:
        await log.log.page(page.position, LogFilter(ALL_CAMERAS), 10)
    oldest = event_log.parse_cursor(expired.value.details["oldest_cursor"], "after", "query")
    assert [event["seq"] for event in await log.all(oldest)] == [7, 8, 9, 10]
    assert [event["seq"] for event in await log.all()] == [7, 8, 9, 10]
    assert (await log.log.page("latest", LogFilter(ALL_CAMERAS), 10)).position.seq == 10
    async with log.db.one_statement() as uow:
        assert await uow.event_log.expire(0, 100) == 4
    for start in ("oldest", Newest(3)):  # type: Start
        empty = await log.log.page(start, LogFilter(ALL_CAMERAS), 10)
        assert (empty.events, empty.position.seq) == ([], 10)
    await fill(log, 1)
    assert [event["seq"] for event in await log.all(empty.position)] == [11]


async def test_the_relay_sweeps_by_itself(log: Log) -> None:
    await fill(log, 3)
    async with relaying(log, 2, retention=1):
        await until(lambda: _empty(log), "the events are gone", 10)


async def _empty(log: Log) -> bool:
    return int((await log.sql("SELECT count(*) FROM events")).scalar_one()) == 0


async def test_cursors_of_another_log_and_from_the_future(log: Log) -> None:
    await fill(log, 3)
    last = (await log.log.page("oldest", LogFilter(ALL_CAMERAS), 10)).position
    with pytest.raises(CursorExpired):  # restored, and nobody said so
        await log.log.page(Position(last.log_id, 4), LogFilter(ALL_CAMERAS), 10)
    waiting = asyncio.create_task(log.log.page(last, LogFilter(ALL_CAMERAS), 10, 20))
    async with relaying(log):
        await until(lambda: _true(log.head.waiting == 1), "it waits")
        async with log.db.unit_of_work() as uow:
            made = await uow.event_log.reset()
        with pytest.raises(CursorExpired) as expired:
            await waiting
    assert expired.value.details == {"oldest_cursor": f"{made}.0"}
    assert [event["seq"] for event in await log.all()] == [1, 2, 3]
    for bad in ("", "x", "latest", str(last) + " ", f"{last.log_id}.-1", f"{last.log_id}.01", f"{last.log_id}.{10**19}"):
        with pytest.raises(InvalidRequest):
            event_log.parse_cursor(bad, "after", "query")


async def test_new_numbers_wait_for_the_relay_at_work(log: Log) -> None:
    """A new identity is not given in the middle of a batch."""
    await fill(log, 1)
    async with log.db.unit_of_work() as held:
        await held.session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})

        async def rename() -> UUID:
            async with log.db.unit_of_work() as uow:
                return await uow.event_log.reset()

        task = asyncio.create_task(rename())
        await asyncio.sleep(0.2)
        assert not task.done()
    await task
