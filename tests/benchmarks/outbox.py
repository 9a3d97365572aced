"""What events cost, and how soon they are read: `make bench-outbox ARGS="--seconds 10 --rate 200"`.

Eight writers store frames' rows (`record_slots`, a frame a transaction) at one rate in all, four times a round: without
events, with their triggers, with a relay beside them, with a consumer besides. CPU is the client's (this process: writers,
relay, consumer) and PostgreSQL's. Then the same statement alone, with and without its trigger.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
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
from services.events.relay import LogHead, Relay
from tests.benchmarks.harness import Cpu, line, share
from tests.integration.storage.test_repositories import add_capture, frame
from utils.embedded.supervisor import EmbeddedParts

_WRITERS = 8
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


async def _mode(db: Database, name: str, rate: float, seconds: float, servers: Sequence[psutil.Process]) -> None:
    await _triggers(db, name != "no events")
    head, committed, readable = LogHead(), dict[str, float](), dict[str, float]()
    relay, consumer = Relay(db, head, 604_800), None
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
    relay = Relay(db, head, 604_800)
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


async def _run(settings: DbSettings, rate: float, seconds: float, rounds: int, server: psutil.Process) -> None:
    await upgrade(settings)
    db = Database(settings, "bench-outbox")
    for _ in range(rounds):
        for name in _MODES:
            await _mode(db, name, rate, seconds, [server])
    await _alone(db, 40)
    await _idle(db, seconds, 0)
    await _idle(db, seconds, 100)
    await db.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, default=200, help="frames a second, all writers together")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    parts = EmbeddedParts(
        folder, postgres=True, object_store=False, database="trackshift", bucket="none", on_event=lambda *_: None
    )
    parts.start()
    try:
        postgres = parts.postgres
        assert postgres is not None
        (pid_file,) = folder.glob("postgres/**/postmaster.pid")
        server = psutil.Process(int(pid_file.read_text().splitlines()[0]))
        settings = DbSettings(HOST=str(postgres.host), PORT=postgres.port, USER=postgres.user, NAME=postgres.database)
        uvloop.run(_run(settings, options.rate, options.seconds, options.rounds, server))
    finally:
        parts.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
