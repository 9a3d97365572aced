"""What events cost, and how soon they are read.

Eight writers store frames' rows (`record_slots`, a frame a transaction) at one rate in all, four times a round: without
events, with their triggers, with a relay beside them, with a consumer besides. CPU is the client's (this process: writers,
relay, consumer) and PostgreSQL's. Then the same statement alone, with and without its trigger.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from uuid import UUID

import psutil
import uvloop
from sqlalchemy import text

from config import DbSettings
from models.access import ALL_CAMERAS
from models.values import LogFilter
from repositories.database import Database
from repositories.migrations.run import upgrade
from services.events.event_log import EventLog, Start
from services.events.outbox_relay import LogHead, OutboxRelay
from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.harness import Cpu, line, share
from tests.integration.storage.test_repositories import add_capture, frame
from utils.embedded.supervisor import EmbeddedParts

_WRITERS = 8
_RATE, _SECONDS = 200.0, 10.0  # frames a second, all writers together; of a mode
_MODES = ("no events", "triggers", "triggers, relay", "triggers, relay, consumer")


async def _triggers(db: Database, on: bool) -> None:
    async with db.unit_of_work() as uow:
        await uow.session.execute(text(f"ALTER TABLE frames {'ENABLE' if on else 'DISABLE'} TRIGGER report_stored"))
        await uow.session.execute(text("TRUNCATE outbox_pending"))


async def _store(db: Database, request_id: UUID, slot: int) -> str:
    record = frame(request_id, slot)
    async with db.one_statement() as uow:
        await uow.ledger.record(request_id, [record], {}, slot + 1)
    return str(record.frame_id)


async def _write(db: Database, rate: float, seconds: float, committed: dict[str, float]) -> None:
    request_id = await add_capture(db)
    begin = time.monotonic()
    for slot in range(int(seconds * rate)):
        await asyncio.sleep(begin + slot / rate - time.monotonic())
        frame_id = await _store(db, request_id, slot)
        committed[frame_id] = time.monotonic()


async def _consume(log: EventLog, readable: dict[str, float]) -> None:
    start: Start = "latest"
    while True:
        page = await log.page(start, LogFilter(ALL_CAMERAS), 1000, 30)
        now = time.monotonic()
        readable |= {json.loads(event.body)["subject"]: now for event in page.events}
        start = page.position


async def _mode(db: Database, name: str, rate: float, seconds: float, servers: Sequence[psutil.Process]) -> dict[str, float]:
    await _triggers(db, name != "no events")
    head, committed, readable = LogHead(), dict[str, float](), dict[str, float]()
    relay, consumer = OutboxRelay(db, head, 604_800), None
    if "relay" in name:
        relay.start()
    if "consumer" in name:
        consumer = asyncio.create_task(_consume(EventLog(db, head, 10), readable))
    await asyncio.gather(*(_write(db, 50, 0.5, {}) for _ in range(_WRITERS)))  # connections are open, plans are made
    inside, outside = Cpu(psutil.Process()), Cpu(*(each for server in servers for each in server.children()))
    await asyncio.gather(*(_write(db, rate / _WRITERS, seconds, committed) for _ in range(_WRITERS)))
    frames = len(committed)
    figures = {"client_ms_per_frame": inside.seconds() / frames * 1000, "pg_ms_per_frame": outside.seconds() / frames * 1000}
    if consumer is not None:
        await asyncio.sleep(0.5)
        late = [1000 * (readable[each] - at) for each, at in committed.items() if each in readable]
        figures |= {"p50_ms": share(late, 0.5), "p99_ms": share(late, 0.99), "missed": frames - len(late)}
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
    await relay.stop()
    line(name, **figures)
    return figures


async def _alone(db: Database, count: int) -> None:
    """Wall time of the statement, by turns, so that both have the machine as it is."""
    requests = {on: await add_capture(db) for on in (False, True)}
    spent: dict[bool, list[float]] = {False: [], True: []}
    for block in range(10):
        for on in (False, True):
            await _triggers(db, on)
            for slot in range(block * count, (block + 1) * count):
                began = time.perf_counter()
                await _store(db, requests[on], slot)
                spent[on].append(1000 * (time.perf_counter() - began))
    for on, name in ((False, "record_slots, a frame, no trigger"), (True, "record_slots, a frame, its trigger")):
        line(name, p50_ms=share(spent[on], 0.5), p90_ms=share(spent[on], 0.9))


async def _idle(db: Database, seconds: float, waiting: int) -> None:
    head = LogHead()
    relay = OutboxRelay(db, head, 604_800)
    relay.start()
    log = EventLog(db, head, 1000)
    readers = [asyncio.create_task(log.page("latest", LogFilter(ALL_CAMERAS), 1, seconds + 5)) for _ in range(waiting)]
    await asyncio.sleep(1)
    used = Cpu(psutil.Process())
    await asyncio.sleep(seconds)
    line(f"nothing happens, {waiting} wait", client_ms_per_second=used.per_second())
    for each in readers:
        each.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    await relay.stop()


async def _run(bench: Bench, settings: DbSettings, server: psutil.Process) -> None:
    await upgrade(settings)
    db = Database(settings, "bench-outbox")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in _MODES}
    for _ in range(bench.rounds):
        for name in _MODES:
            found[name].append(await _mode(db, name, _RATE, _SECONDS, [server]))
    bare = [each["pg_ms_per_frame"] for each in found["no events"]]
    for name in _MODES[1:]:
        spent = [each["pg_ms_per_frame"] for each in found[name]]
        bench.compare(f"PostgreSQL's CPU a frame: {name} / no events", "ms", spent, bare, Goal())
    read = found["triggers, relay, consumer"]
    p99 = share([each["p99_ms"] for each in read], 0.5)
    bench.compare("commit to read, p50", "ms", [each["p50_ms"] for each in read], [], Goal(), p99_ms=p99)
    await _alone(db, 40)
    await _idle(db, _SECONDS, 0)
    await _idle(db, _SECONDS, 100)
    await db.close()


def outbox(bench: Bench) -> None:
    parts = EmbeddedParts(
        bench.folder, postgres=True, object_store=False, database="trackshift", bucket="none", on_event=lambda *_: None
    )
    parts.start()
    try:
        postgres = parts.postgres
        assert postgres is not None
        (pid_file,) = bench.folder.glob("postgres/**/postmaster.pid")
        server = psutil.Process(int(pid_file.read_text().splitlines()[0]))
        settings = DbSettings(HOST=str(postgres.host), PORT=postgres.port, USER=postgres.user, NAME=postgres.database)
        uvloop.run(_run(bench, settings, server))
    finally:
        parts.stop()
