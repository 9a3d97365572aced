"""Two services behind PgBouncer as Debian ships it: one on its sessions, one on its transactions, the latter killed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from config import DbSettings
from demo.camera import Camera
from tests.conftest import Backends, running, unique
from tests.kits.pgbouncer import pgbouncer
from tests.kits.service_support import (
    all_frames,
    assert_ledger,
    assert_objects,
    capture,
    final,
    jpeg,
    own_database,
    service_on,
    status,
    until,
    upload,
)

pytestmark = [pytest.mark.paced, pytest.mark.timeout(400)]  # two services at once, on a machine that may be busy

FPS, DURATION = 4.0, 12


def environment(db: DbSettings, **more: str) -> dict[str, str]:
    return {
        "DB__HOST": db.HOST, "DB__PORT": str(db.PORT), "DB__SSL": "disable", "DB__POOLER": db.POOLER,
        "RTSP__LEASE_TTL": "3", **more,
    }  # fmt: skip


async def test_captures_uploads_and_a_kill_behind_a_pooler(backends: Backends, tmp_path: Path) -> None:
    """Every upload is answered 201, nothing 5xx, and a kill in transaction mode leaves no slot unaccounted."""
    own = await own_database(backends)
    with pgbouncer(own.db, "transaction", 6) as lent, pgbouncer(own.db, "session", 40) as kept:
        folders = [tmp_path / "transaction", tmp_path / "session"]
        for folder in folders:
            folder.mkdir()
        killed = service_on(own, folders[0], **environment(lent))
        direct = {"DB__DIRECT_HOST": own.db.HOST, "DB__DIRECT_PORT": str(own.db.PORT)}
        survivor = service_on(own, folders[1], **environment(kept, **direct))
        with Camera(size=(320, 180), fps=15, bitrate=300_000) as camera:
            async with running(killed) as one, running(survivor) as two:
                wanted = {"capture_mode": "continuous", "capture_duration": DURATION, "fps": FPS}
                requests = [await capture(client, unique(), camera.url, **wanted) for client in (one, two, one, two)]

                async def load(client: httpx.AsyncClient) -> list[str]:
                    ids = []
                    for _ in range(6):
                        answer = await upload(client, unique(), jpeg(), jpeg())
                        assert answer.status_code == 201, answer.text
                        ids += [frame["frame_id"] for frame in answer.json()["frames"]]
                        for path in ("/health", "/api/v1/frames", "/api/v1/events", "/api/v1/ingest/requests"):
                            seen = await client.get(path)
                            assert seen.status_code == 200, (path, seen.text)
                    return ids

                uploaded = [*await load(one), *await load(two)]
                at_once = await asyncio.gather(*(load(client) for client in (one, two) for _ in range(3)))
                uploaded += [each for ids in at_once for each in ids]

                async def all_stored() -> bool:
                    found = [await status(two, request_id) for request_id in requests]
                    return all(each["progress"]["stored"] > 2 for each in found)

                await until(all_stored, "frames of all captures", 120, 0.3)
                await asyncio.to_thread(killed.kill)
                for request_id in requests:
                    done = await final(two, request_id, 120)
                    assert done["status"] == "completed", done
                    assert done["progress"]["expected"] == DURATION * FPS
                    assert_ledger(done)
                    frames = await all_frames(two, request_id)
                    assert len(frames) == done["progress"]["stored"] >= DURATION * FPS / 2
                    sequences = [frame["sequence"] for frame in frames]
                    assert sequences == sorted(set(sequences))
                    await assert_objects(two, frames[-2:])
                for frame_id in uploaded:
                    assert (await two.get(f"/api/v1/frames/{frame_id}")).status_code == 200
        for service in (killed, survivor):
            for trouble in ("unhandled_error", "database_unavailable", "access_listen_failed", "capture_failed"):
                assert f'"{trouble}"' not in service.text(), trouble
