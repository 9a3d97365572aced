"""Lists of frames at 10,000 rows and at ROWS: the first page, a page in the middle, and the frame nearest to a moment.

The rows are written by one INSERT ... SELECT of PostgreSQL, as COPY would write them; 10 million take about ten minutes and
8 GB, so a million are the default (`BENCH_ROWS=10000000 make bench deep`).
"""

from __future__ import annotations

import os
import statistics
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import uvloop

from models.access import ANONYMOUS
from models.values import FrameFilter
from services.access.cursors import Cursors
from tests.benchmarks.clients import Side, get
from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.http import both, turns

_FEW, _MANY = 10_000, int(os.environ.get("BENCH_ROWS", "1000000"))
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_CAMERAS = 20
_LOOKS = 1  # rounds of half a second
_REQUESTS = """
INSERT INTO ingestion_requests (id, camera_id, source_type, status, expected, stored, completed_at)
SELECT md5('r' || c)::uuid, 'deep-' || c, 'upload', 'completed', $1, $1, now() FROM generate_series(0, $2 - 1) AS c
ON CONFLICT (id) DO NOTHING
"""
_ROWS = """
INSERT INTO frames (id, request_id, camera_id, source_type, sequence, storage_path, capture_timestamp, timestamp_source,
    width, height, size_bytes, format, content_type, sha256, state, stored_at)
SELECT md5(n::text)::uuid, md5('r' || n % $3)::uuid, 'deep-' || n % $3, 'upload', n / $3,
    'frames/2026/01/01/deep/' || n || '.jpg', $4::timestamptz + n * interval '1 second', 'client', 64, 48, 1440, 'jpg',
    'image/jpeg', repeat(md5(n::text), 2), 'stored', now()
FROM generate_series($1::bigint, $2::bigint) AS n
"""


async def _fill(database: asyncpg.Connection, first: int, last: int) -> None:
    """Without triggers and without foreign keys' checks: each row is what a finished upload leaves."""
    async with database.transaction():
        await database.execute("SET LOCAL session_replication_role = replica")
        await database.execute(_REQUESTS, _MANY, _CAMERAS)
        for begin in range(first, last, 250_000):
            await database.execute(_ROWS, begin, min(begin + 250_000, last) - 1, _CAMERAS, _BEGIN, timeout=600)
    await database.execute("VACUUM ANALYZE frames", timeout=600)


async def _times(ours: Side, requests: list[bytes]) -> list[float]:
    """Milliseconds a request of one client, of each request by itself."""
    found = []
    for each in requests:
        side = Side(ours.address, ours.process, [each])
        await turns(_LOOKS, side, seconds=0.5, clients=1)
        found.append(1000 / statistics.median(side.rates))
    return found


async def _measured(bench: Bench, ours: Side, cursors: Cursors, rows: int) -> list[list[float]]:
    """A round each: the first page, one in the middle, the nearest frame."""
    middle = await _middle(cursors, rows)
    at = (_BEGIN + timedelta(seconds=rows // 2 + 0.4)).strftime("%Y-%m-%dT%H:%M:%SZ")
    asked = [get("/api/v1/frames?limit=50"), get(f"/api/v1/frames?limit=50&cursor={middle}")]
    asked.append(get(f"/api/v1/frames/nearest?camera_id=deep-7&at={at}"))
    return [await _times(ours, asked) for _ in range(bench.rounds)]


async def _middle(cursors: Cursors, rows: int) -> str:
    """A cursor as the service gives it to who has read half of all pages."""
    return cursors.encode(_BEGIN + timedelta(seconds=rows // 2), UUID(int=0), FrameFilter(), ANONYMOUS)


async def _run(bench: Bench) -> None:
    async with both(bench.folder) as sides:
        database = await asyncpg.connect(sides.dsn)
        cursors = Cursors(await database.fetchval("SELECT cursor_key FROM access_state"))
        ours = Side(*sides.ours, [])
        await _fill(database, 0, _FEW)
        few = await _measured(bench, ours, cursors, _FEW)
        await _fill(database, _FEW, _MANY)
        many = await _measured(bench, ours, cursors, _MANY)
        await database.close()
    for number, what in enumerate(("first page", "page in the middle", "nearest frame")):
        mine, other = ([each[number] for each in rounds] for rounds in (many, few))
        bench.compare(f"{what}: {_MANY:,} frames / {_FEW:,}", "ms", mine, other, Goal("<=", 1.3))


def deep(bench: Bench) -> None:
    uvloop.run(_run(bench))
