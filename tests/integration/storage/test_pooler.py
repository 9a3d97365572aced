"""PostgreSQL as people have it: behind PgBouncer in both modes, read-only, failed over, its schema changed meanwhile."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Literal

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import event, text

from config import DbSettings
from repositories.connections import connect
from repositories.database import Database
from repositories.migrations.run import upgrade
from repositories.table_copy import overview_of, snapshot
from tests.conftest import Backends, make_database
from tests.kits.pgbouncer import SMALL_POOL, pgbouncer
from tests.kits.tcp_proxy import TcpProxy
from utils.exceptions import DatabaseUnavailable

VALUES = {
    "statement_timeout": "7s", "lock_timeout": "7s", "idle_in_transaction_session_timeout": "3s", "jit": "off",
    "TimeZone": "UTC",
}  # fmt: skip


@pytest_asyncio.fixture(scope="module")
async def own(backends: Backends) -> DbSettings:
    """An empty database on the shared server."""
    return await make_database(backends.db, f"pooler_{secrets.token_hex(5)}")


@pytest.fixture(params=["transaction", "session", "direct"])
def pooled(request: pytest.FixtureRequest, own: DbSettings) -> Iterator[DbSettings]:
    """Behind PgBouncer in each mode, and in transaction mode with PostgreSQL's own address beside it."""
    mode: Literal["session", "transaction"] = "session" if request.param == "session" else "transaction"
    # In session mode each connection of a client takes one to the server.
    with pgbouncer(own, mode, SMALL_POOL if mode == "transaction" else 20) as db:
        update: dict[str, Any] = {"STATEMENT_TIMEOUT": 7, "POOL_SIZE": 8, "MAX_OVERFLOW": 0, "POOL_TIMEOUT": 30}
        if request.param == "direct":
            update |= {"DIRECT_HOST": own.HOST, "DIRECT_PORT": own.PORT}
        yield db.model_copy(update=update)


async def shown(database: Database, single: bool) -> dict[str, str]:
    work = database.one_statement() if single else database.unit_of_work()
    async with work as uow:
        found = await uow.session.execute(
            text("SELECT " + ", ".join(f"current_setting('{name}') AS \"{name}\"" for name in VALUES))
        )
        return dict(found.mappings().one())


async def test_a_pooler_lends_sessions_or_transactions(pooled: DbSettings, own: DbSettings) -> None:
    """Migrations, timeouts, statements of all kinds side by side, errors, locks, notifications, copies."""
    keeps = pooled.POOLER == "session" or bool(pooled.DIRECT_HOST)
    await upgrade(pooled)  # the first one migrates, the others find it done
    async with AsyncExitStack() as stack:
        one, two = Database(pooled), Database(pooled, "another")
        stack.push_async_callback(one.close)
        stack.push_async_callback(two.close)
        assert one.keeps_sessions is keeps
        assert (await one.version())[0].isdigit()
        # More clients than connections to the server: consecutive transactions of one come to different sessions.
        kinds = [shown(database, single) for database in (one, two) for single in (True, False) for _ in range(12)]
        assert all(found == VALUES for found in await asyncio.gather(*kinds))

        async def write(number: int) -> int:
            async with (one if number % 2 else two).one_statement(events=False) as uow:
                made = await uow.session.execute(
                    text("UPDATE access_state SET version = version + CAST(:one AS int) RETURNING version"), {"one": 1}
                )
                return int(made.scalar_one())

        assert len({*await asyncio.gather(*(write(number) for number in range(40)))}) == 40
        # A statement that fails leaves neither a transaction nor a connection behind that others would meet.
        for work in (one.one_statement, one.unit_of_work):
            for _ in range(SMALL_POOL + 2):
                with pytest.raises(Exception, match="division"):
                    async with work() as uow:
                        await uow.session.execute(text("SELECT 1 / CAST(:none AS int)"), {"none": 0})
        assert await shown(one, True) == VALUES

        # A refused write says that this server takes none: every connection of the pool is made again.
        made: list[object] = []
        event.listen(one.engine.sync_engine, "connect", lambda *_: made.append(object()))

        async def refused() -> None:
            async with one.unit_of_work() as uow:
                await uow.session.execute(text("SET LOCAL transaction_read_only = on"))
                await uow.session.execute(text("UPDATE access_state SET version = version"))

        with pytest.raises(DatabaseUnavailable):
            await refused()
        async with AsyncExitStack() as held:
            for _ in range(3):
                uow = await held.enter_async_context(one.unit_of_work())
                await uow.session.execute(text("SELECT 1"))
        assert len(made) == 3

        # What is set for a transaction is not left to others.
        if pooled.POOLER == "transaction":
            plain = await asyncpg.connect(
                host=pooled.HOST, port=pooled.PORT, user=pooled.USER, database=pooled.NAME, ssl=False,
                password=pooled.PASSWORD.get_secret_value() or None, statement_cache_size=0,
            )  # fmt: skip
            async with plain.transaction():
                assert await plain.fetchval("SHOW statement_timeout") == "0"
            await plain.close()

        # One process at a time has a background job's lock, longer than an idle transaction may take.
        async with one.exclusive(4711) as lock:
            assert lock is not None
            async with two.exclusive(4711) as other:
                assert other is None
            await asyncio.sleep(3.5)  # idle_in_transaction_session_timeout is 3 s
            await lock.check()
        async with two.exclusive(4711) as lock:
            assert lock is not None

        if keeps:
            heard = asyncio.Event()
            async with one.notifications("pooler_test", heard.set) as lost:
                async with two.unit_of_work() as uow:
                    await uow.session.execute(text("SELECT pg_notify('pooler_test', '')"))
                await asyncio.wait_for(heard.wait(), 20)
                assert not lost.is_set()

        overview = await overview_of(pooled)
        assert overview.revision is not None
        async with snapshot(pooled) as taken:
            assert (await taken.server_version())[0].isdigit()
            assert {table.name for table in await taken.tables()} >= {"frames", "capture_leases"}
            copied = bytearray()

            async def keep(data: bytes) -> None:
                copied.extend(data)

            table = next(table for table in await taken.tables() if table.name == "access_state")
            assert await taken.copy(table, keep) == 1


@dataclass
class Server:
    """A name whose address changes: two proxies to one server, on addresses of their own and the same port."""

    first: TcpProxy
    second: TcpProxy
    address: str = "127.0.0.1"


@pytest.fixture
def server(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    at = (backends.db.HOST, backends.db.PORT)
    with TcpProxy(*at) as first, TcpProxy(*at, "127.0.0.2", first.port) as second:
        made, real = Server(first, second), socket.getaddrinfo

        def resolve(host: Any, *args: Any, **more: Any) -> Any:
            return real(made.address if host == "db.test" else host, *args, **more)

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        yield made


async def test_fail_over_to_another_address(backends: Backends, server: Server) -> None:
    """The first host goes silent, as a dead one does; the name then says another address."""
    db = backends.db.model_copy(
        update={"HOST": "db.test", "PORT": server.first.port, "SSL": "disable", "STATEMENT_TIMEOUT": 1, "CONNECT_TIMEOUT": 1}
    )
    database = Database(db, "fail-over")
    try:
        await asyncio.gather(*(database.version() for _ in range(6)))  # several connections
        assert (server.first.total > 1, server.second.total) == (True, 0)
        server.first.stall()
        with pytest.raises(DatabaseUnavailable):
            await database.version()
        server.address = "127.0.0.2"
        # One failure was told above; none of the pool's other connections costs another one.
        await asyncio.gather(*(database.version() for _ in range(6)))
        assert server.second.total >= 1
    finally:
        server.first.go_on()
        await database.close()


@pytest_asyncio.fixture
async def small(own: DbSettings) -> AsyncIterator[Database]:
    made = Database(own.model_copy(update={"POOL_SIZE": 3, "MAX_OVERFLOW": 0}), "schema")
    yield made
    await made.close()


async def test_a_schema_changed_under_a_running_process(small: Database, own: DbSettings) -> None:
    """Statements prepared before are refused by PostgreSQL once a column has another type: nobody is told."""
    table = f"changing_{secrets.token_hex(4)}"
    admin = await connect(own, "admin", {})
    await admin.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, value varchar(10)); INSERT INTO {table} VALUES (1, 'a')")
    read = text(f"SELECT id, value FROM {table} WHERE id = :id")
    write = text(f"UPDATE {table} SET value = :value WHERE id = 1 RETURNING value")

    async def single() -> str:
        async with small.one_statement() as uow:
            return str((await uow.session.execute(read, {"id": 1})).one().value)

    async def first() -> str:
        async with small.unit_of_work() as uow:
            found = str((await uow.session.execute(read, {"id": 1})).one().value)
            return found + str(await uow.session.scalar(write, {"value": found}))

    async def reading() -> str:
        async with small.reading() as uow:
            await uow.session.execute(text("SELECT 1"))
            return str((await uow.session.execute(read, {"id": 1})).one().value)

    async def later() -> str:
        async def work(uow: Any) -> str:
            await uow.session.execute(text("SELECT 1"))
            return str(await uow.session.scalar(write, {"value": "a"}))

        return await small.retry_until_known(work)

    types = ["varchar(20)", "text", "varchar(30)", "varchar(40)"]
    for work, to in zip((single, first, reading, later), types, strict=True):
        await asyncio.gather(*(work() for _ in range(12)))  # on every connection
        await admin.execute(f"ALTER TABLE {table} ALTER COLUMN value TYPE {to}, ADD COLUMN of_{work.__name__} int")
        found = await asyncio.gather(*(work() for _ in range(12)))
        assert {*found} <= {"a", "aa"}, work.__name__
    # Where a transaction has written and cannot be repeated here, its caller is told to try again.
    await later()
    await admin.execute(f"ALTER TABLE {table} ALTER COLUMN value TYPE text")

    async def writes() -> None:
        async with small.unit_of_work() as uow:
            await uow.session.execute(text(f"UPDATE {table} SET id = 2 WHERE id = 1"))
            await uow.session.execute(write, {"value": "b"})

    with pytest.raises(DatabaseUnavailable) as told:
        await writes()
    assert told.value.retryable
    await admin.execute(f"DROP TABLE {table}")
    await admin.close()
