"""Leases when everything else is scarce: connections, and 10,000 captures that wait."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import text

from config import DbSettings
from models.access import ANONYMOUS
from models.values import Claim
from repositories.database import Database
from services.access.cursors import Cursors
from services.reads.queries import Queries
from services.storage_service.service import StorageService
from tests.conftest import SECRETS_KEY, Backends, migrated_database
from utils.exceptions import DatabaseUnavailable
from utils.secret_box import SecretBox

pytestmark = pytest.mark.alone

TTL = 30.0
PENDING = 10_000
CAMERAS = 500


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own(backends: Backends) -> DbSettings:
    return await migrated_database(backends.db, f"leases_{secrets.token_hex(5)}")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def db(own: DbSettings) -> AsyncIterator[Database]:
    made = Database(own.model_copy(update={"POOL_SIZE": 2, "MAX_OVERFLOW": 0, "POOL_TIMEOUT": 0.3}), "trackshift-load")
    async with made.unit_of_work() as uow:
        await uow.session.execute(
            text("""
            WITH made AS (
                INSERT INTO ingestion_requests (id, camera_id, source_type, capture_mode, status, rtsp_url, params)
                SELECT gen_random_uuid(), 'cam-' || n % :cameras, 'rtsp', 'continuous', 'pending', 'x',
                       '{"mode": "continuous", "fps": 1, "duration": 5}'
                FROM generate_series(1, :pending) AS n RETURNING id, camera_id
            )
            INSERT INTO capture_leases (request_id, camera_id) SELECT id, camera_id FROM made
            """),
            {"cameras": CAMERAS, "pending": PENDING},
        )
    yield made
    await made.close()


async def timed(times: int, work: object) -> list[float]:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        await work()  # type: ignore[operator]
        took.append((time.perf_counter() - began) * 1000)
    return took


async def test_claims_and_answers_are_quick_with_10000_captures_waiting(db: Database, storage: StorageService) -> None:
    async with db.unit_of_work() as uow:
        some = await uow.session.scalar(text("SELECT id FROM ingestion_requests LIMIT 1"))
    queries = Queries(db, storage, SecretBox([SECRETS_KEY]), cursors=Cursors(b"k"))
    taken: list[Claim] = []

    async def claim() -> None:
        async with db.unit_of_work() as uow:
            taken.extend(await uow.leases.claim("me", TTL, 5, {}, 100))

    async def full() -> None:  # all streams are in use: nothing may be taken
        async with db.unit_of_work() as uow:
            assert await uow.leases.claim("me", TTL, 5, {"cam-x": 1}, 0) == []

    async def cancelled() -> None:
        async with db.unit_of_work() as uow:
            assert await uow.leases.take_cancelled("me", TTL, 20) == []

    async def renew() -> None:
        async with db.one_statement() as uow:
            assert len((await uow.leases.renew("me", TTL, taken)).ours) == len(taken)

    async def status() -> None:
        await queries.get_request(some, who=ANONYMOUS)

    for name, work, limit in (
        ("claim", claim, 150), ("claim, no room", full, 150), ("reconciler", cancelled, 50), ("renew", renew, 50),
        ("status", status, 50),
    ):  # fmt: skip
        took = await timed(20, work)
        print(f"{name}: median {statistics.median(took):.1f} ms, most {max(took):.1f} ms")
        assert statistics.median(took) < limit
    assert len({claim.request_id for claim in taken}) == 100


async def test_renewals_need_nothing_of_the_pool(db: Database, own: DbSettings) -> None:
    """All of the pool is in use, and PostgreSQL gives nobody another connection: the dedicated one goes on."""
    leases = Database(own, "trackshift-leases", dedicated=True)
    hoard: list[asyncpg.Connection] = []
    try:
        async with db.unit_of_work() as uow:
            mine = await uow.leases.claim("dedicated", TTL, 3, {}, 100)
        async with leases.one_statement() as uow:
            assert len((await uow.leases.renew("dedicated", TTL, mine)).ours) == 3
        async with db.unit_of_work() as one, db.unit_of_work() as two:
            await one.session.execute(text("SELECT 1"))
            await two.session.execute(text("SELECT 1"))
            with pytest.raises(DatabaseUnavailable):
                async with db.unit_of_work() as uow:
                    await uow.leases.claim("other", TTL, 1, {}, 100)
            while True:
                try:
                    hoard.append(
                        await asyncpg.connect(
                            host=own.HOST, port=own.PORT, user=own.USER, database=own.NAME,
                            password=own.PASSWORD.get_secret_value() or None,
                        )
                    )  # fmt: skip
                except asyncpg.TooManyConnectionsError:
                    break
                assert len(hoard) < 1000
            for _ in range(3):
                began = time.monotonic()
                async with leases.one_statement() as uow:
                    assert len((await uow.leases.renew("dedicated", TTL, mine)).ours) == 3
                assert time.monotonic() - began < 1
    finally:
        await asyncio.gather(*(connection.close() for connection in hoard))
        await leases.close()
