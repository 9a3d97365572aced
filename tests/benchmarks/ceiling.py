"""How many ledger writes, lease renewals and events a second PostgreSQL does here.

Writers are plain asyncpg with prepared statements, so that little of the machine is the client's. Beside what came through
stands PostgreSQL's own CPU time for each: two processors divided by it is the ceiling of a PostgreSQL that has both.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import psutil
import uvloop

from config import DbSettings
from repositories.database import Database
from repositories.ledger import frame_json
from repositories.migrations.run import upgrade
from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.harness import Cpu
from tests.integration.storage.test_repositories import add_capture, frame
from utils.embedded.supervisor import EmbeddedParts

_WRITERS = 16
_SECONDS = 8.0
_WARM = 12  # calls of each connection that are not counted: a function's statements are planned anew the first five times
_LEASES = 50  # of one process, renewed by one statement
_RECORD = "SELECT sequence FROM record_slots($1::uuid, $2::jsonb, '{}'::jsonb, $3::int)"
_RENEW = """
    UPDATE capture_leases l SET expires_at = clock_timestamp() + interval '6 s' FROM (
        SELECT request_id FROM capture_leases WHERE request_id = ANY($1::uuid[]) ORDER BY request_id FOR UPDATE
    ) AS held WHERE l.request_id = held.request_id
"""
_RELAY = "SELECT moved FROM relay_events(1000)"
Step = Callable[[asyncpg.Connection, int], Awaitable[int]]


async def _measured(db: DbSettings, server: psutil.Process, writers: int, step: Step) -> tuple[float, float]:
    """(a second, milliseconds of PostgreSQL's CPU for each) of what `step` does with the number of its writer."""
    given = {"host": db.HOST, "port": db.PORT, "user": db.USER, "database": db.NAME, "server_settings": {"jit": "off"}}
    connections = [await asyncpg.connect(**given) for _ in range(writers)]  # without JIT, as the service's
    for _ in range(_WARM):
        await asyncio.gather(*(step(connection, number) for number, connection in enumerate(connections)))
    used, began, done = Cpu(*server.children()), time.monotonic(), 0

    async def write(number: int, connection: asyncpg.Connection) -> None:
        nonlocal done
        while time.monotonic() - began < _SECONDS:
            done += await step(connection, number)

    await asyncio.gather(*(write(number, connection) for number, connection in enumerate(connections)))
    rate, spent = done / (time.monotonic() - began), used.seconds() / max(1, done) * 1000
    for connection in connections:
        await connection.close()
    return rate, spent


async def _run(bench: Bench, db: DbSettings, server: psutil.Process) -> None:
    await upgrade(db)
    database = Database(db, "bench-ceiling")
    requests = [await add_capture(database) for _ in range(_WRITERS * _LEASES)]
    slots = dict.fromkeys(requests, 0)

    async def record(connection: asyncpg.Connection, number: int) -> int:
        request_id = requests[number]
        slot, slots[request_id] = slots[request_id], slots[request_id] + 1
        # Bytes of their own: a frame's twins are looked up, and thousands of them would be what is measured.
        made = frame(request_id, slot, camera_id=f"bench-{number}", sha256=secrets.token_hex(32))
        await connection.fetch(_RECORD, request_id, json.dumps([frame_json(made)]), slot + 1)
        return 1

    async def renew(connection: asyncpg.Connection, number: int) -> int:
        mine: list[UUID] = requests[number * _LEASES : (number + 1) * _LEASES]
        await connection.execute(_RENEW, mine)
        return _LEASES

    async def relay(connection: asyncpg.Connection, _: int) -> int:
        if not (moved := int(await connection.fetchval(_RELAY))):
            await connection.execute(
                "INSERT INTO outbox_pending (event) SELECT event FROM events ORDER BY seq DESC LIMIT 5000"
            )
        return moved

    steps: list[tuple[str, Step, int]] = [
        ("record_slots, a frame each", record, _WRITERS), ("leases renewed, 50 a statement", renew, 8),
        ("events moved into the log", relay, 1),
    ]  # fmt: skip
    for what, step, writers in steps:
        rate, spent = await _measured(db, server, writers, step)
        bench.compare(what, "/s", [rate], [], Goal(), cpu_ms=spent, two_cores=2000 / spent if spent else 0.0)
    await database.close()


def ceiling(bench: Bench) -> None:
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
