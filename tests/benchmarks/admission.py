"""POST /ingest/rtsp while no stream is free, beside a bare FastAPI route that inserts a row; and with 10,000 that wait."""

from __future__ import annotations

import json
import socket
import statistics
from itertools import count

import asyncpg
import uvloop

from tests.benchmarks.clients import Side, post
from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.http import CLIENTS, beside, both, turns

_PENDING = 10_000
_CAMERAS = 400  # each in as many requests as are sent of it
# Captures as the service writes them: one that was asked for, many times.
_COPIES = """
WITH made AS (
    INSERT INTO ingestion_requests (id, camera_id, source_type, capture_mode, status, rtsp_url, params, meta)
    SELECT gen_random_uuid(), 'waiting-' || n % 500, source_type, capture_mode, 'pending', rtsp_url, params, meta
    FROM ingestion_requests, generate_series(1, $1) AS n
    WHERE id = (SELECT id FROM ingestion_requests WHERE capture_mode = 'single_frame' LIMIT 1)
    RETURNING id, camera_id
)
INSERT INTO capture_leases (request_id, camera_id) SELECT id, camera_id FROM made
"""
_END = "UPDATE ingestion_requests SET status = 'cancelled', completed_at = now() WHERE status = 'pending'"
_numbers = count()


def _requests(url: str, path: str) -> list[bytes]:
    bodies = ({"camera_id": f"cam-{next(_numbers)}", "rtsp_url": url} for _ in range(_CAMERAS))
    return [post(path, json.dumps({**body, "capture_mode": "single_frame"}).encode()) for body in bodies]


async def _clear(database: asyncpg.Connection) -> None:
    """Nothing waits: leases of ended captures are nobody's."""
    await database.execute("DELETE FROM capture_leases WHERE owner IS NULL")
    await database.execute(_END)


async def _run(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a camera that takes connections and says nothing
        url = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/s"
        limits = {"RTSP__MAX_CONCURRENT_CAPTURES": "1", "RTSP__MAX_PENDING": "200000"}
        async with both(bench.folder, **limits) as sides:
            held = {"camera_id": "held", "rtsp_url": url, "capture_mode": "continuous"}
            (await sides.client.post("/api/v1/ingest/rtsp", json=held)).raise_for_status()
            database = await asyncpg.connect(sides.dsn)
            await database.execute("SET session_replication_role = replica")  # no events of rows that nobody sent
            ours = Side(*sides.ours, _requests(url, "/api/v1/ingest/rtsp"), status=202)
            bare = Side(*sides.bare, _requests(url, "/captures"), status=202)
            await turns(bench.rounds, ours, bare)
            beside(bench, f"POST /ingest/rtsp, {CLIENTS} clients / bare INSERT route", ours, bare, Goal(">=", 0.5))
            # One client, so that what a request takes is measured and not how many wait for each other.
            alone: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(bench.rounds):
                for waiting in alone:
                    await _clear(database)
                    if waiting:
                        await database.execute(_COPIES, _PENDING)
                    await database.execute("VACUUM ANALYZE ingestion_requests, capture_leases")
                    ours.forget()
                    await ours.round(2, 1)
                    alone[waiting].append(1000 / statistics.median(ours.rates))
            what = f"the same, one client, {_PENDING} pending / none"
            bench.compare(what, "ms", alone[True], alone[False], Goal("<=", 1.3))
            await database.close()


def admission(bench: Bench) -> None:
    uvloop.run(_run(bench))
