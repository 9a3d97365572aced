"""What a heartbeat finds when no notice told of it, and that notices which do not come are noticed."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from config import DbSettings, Role
from repositories.heartbeats import Waiting
from services.execution import notices as noticing
from tests.conftest import Backends
from tests.integration.service.test_calls import Process, running
from tests.kits.pg_proxy import Gate
from tests.kits.service_support import own_database, until
from tests.kits.takeover_kit import fetch

NOTHING = Waiting(drain=False, captures=False, lapse_in=None, calls=False, events=False, pairs=False, kept=False)
_REQUEST = """
    INSERT INTO ingestion_requests (id, camera_id, source_type, capture_mode, status, rtsp_url, params)
    VALUES ($1, 'cam', 'rtsp', 'continuous', 'pending', 'x', '{}') RETURNING id
"""
_LEASE = """
    INSERT INTO capture_leases (request_id, camera_id, owner, expires_at, ttl)
    VALUES ($1, 'cam', $2, now() + make_interval(secs => $3), 200)
"""


async def test_a_heartbeat_finds_what_no_notice_told(backends: Backends) -> None:
    db = (await own_database(backends)).db
    process = Process(db, Role.ALL)
    found: list[Waiting] = []
    process.membership.when_found(found.append)
    async with running(process):
        own = process.membership.worker_id

        async def heartbeat() -> Waiting:
            known = len(found)
            process.membership.heartbeat_now()

            async def written() -> bool:
                return len(found) > known

            await until(written, "a heartbeat", 10, 0.01)
            return found[-1]

        assert await heartbeat() == NOTHING
        request = uuid4()
        await fetch(db, _REQUEST, request)
        await fetch(db, "DELETE FROM outbox_pending")  # the request's event, which nothing here relays
        await fetch(db, _LEASE, request, "another", 100.0)
        held = await heartbeat()
        assert held.lapse_in == pytest.approx(100, abs=20)
        assert held == Waiting(False, False, held.lapse_in, False, False, False, False)
        await fetch(db, "UPDATE capture_leases SET expires_at = now() - interval '1 s'")
        await fetch(db, "INSERT INTO outbox_pending (event) VALUES ('{}')")
        await _ask(db, own)
        await fetch(
            db, "INSERT INTO camera_configurations (camera_id, rtsp_url, keep_open, site) VALUES ('a', 'x', true, 'default')"
        )
        assert await heartbeat() == Waiting(False, True, None, True, True, False, True)
        await fetch(db, "UPDATE camera_configurations SET site = 'elsewhere'")
        await fetch(db, "UPDATE workers SET draining = true")
        assert await heartbeat() == Waiting(True, True, None, True, True, False, False)
        assert process.drained


async def _ask(db: DbSettings, worker: object) -> None:
    """A call whose notice was lost."""
    await fetch(
        db,
        "INSERT INTO worker_calls (id, worker_id, caller, kind, request, expires_at) "
        "VALUES ($1, $2, $1, 'picture', 'x', now() + interval '1 h')",
        uuid4(), worker,
    )  # fmt: skip


async def test_a_connection_that_brings_no_notices_is_replaced(backends: Backends) -> None:
    """As one that a firewall has forgotten: nobody closes it, and nothing comes."""
    db = (await own_database(backends)).db
    async with Gate(db.HOST, db.PORT).listening() as gate:
        process = Process(db, Role.API)
        process.database._direct = db.model_copy(update={"HOST": "127.0.0.1", "PORT": gate.port})

        async def hears() -> bool:
            return process.membership.hears

        async def deaf() -> bool:
            process.membership.heartbeat_now()
            return not process.membership.hears

        async def heard() -> bool:
            return process.notices._unheard <= 1  # a heartbeat's notice may come before its statement has returned

        found: list[Waiting] = []
        process.membership.when_found(found.append)
        async with running(process):
            await until(hears, "notices come")
            for _ in range(2 * noticing.MAX_UNHEARD):
                known = len(found)
                assert not await deaf()
                await until(lambda known=known: asyncio.sleep(0, len(found) > known), "a heartbeat", 10, 0.01)  # type: ignore[misc]
                await until(heard, "its notice", 10, 0.01)
            gate.hang()
            await until(deaf, "it is noticed")
            gate.open()
            await until(hears, "there is another connection", 10)
