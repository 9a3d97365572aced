"""PostgreSQL takes no more connections, since other processes have them: the work goes on by those that a process has."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from pydantic import SecretStr
from sqlalchemy import text

from config import DbSettings
from repositories.database import Database
from tests.conftest import Backends
from tests.kits.service_support import own_database
from tests.kits.takeover_kit import fetch
from utils.exceptions import DatabaseUnavailable

CALLERS = 60


@pytest_asyncio.fixture
async def few(backends: Backends) -> AsyncIterator[DbSettings]:
    """A role that may have three connections; PostgreSQL says the same as when all of the server's are used up."""
    db = (await own_database(backends)).db
    role, password = f"few_{secrets.token_hex(4)}", secrets.token_hex(8)
    await fetch(db, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 3 PASSWORD '{password}'")
    yield db.model_copy(update={"USER": role, "PASSWORD": SecretStr(password), "POOL_TIMEOUT": 5.0})
    await fetch(db, f"DROP ROLE {role}")


async def test_work_goes_on_with_the_connections_that_are_open(few: DbSettings) -> None:
    database = Database(few, "few")

    async def work() -> None:
        async with database.unit_of_work() as uow:
            await uow.session.execute(text("SELECT pg_sleep(0.01)"))

    try:
        await work()
        await asyncio.gather(*(work() for _ in range(CALLERS)))
        assert database._queue._left == few.POOL_SIZE + few.MAX_OVERFLOW
    finally:
        await database.close()
    database = Database(few, "few")  # and the pool of plain connections
    try:
        await asyncio.gather(*(database.calls.notify("few", "") for _ in range(CALLERS)))
    finally:
        await database.close()


async def test_without_any_connection_it_is_away(few: DbSettings) -> None:
    holder, database = Database(few, "holder"), Database(few.model_copy(update={"POOL_TIMEOUT": 0.2}), "few")
    begun, done = asyncio.Barrier(4), asyncio.Event()

    async def hold() -> None:
        async with holder.unit_of_work() as uow:
            await uow.session.execute(text("SELECT 1"))
            await begun.wait()
            await done.wait()

    holding = [asyncio.create_task(hold()) for _ in range(3)]
    try:
        await begun.wait()
        with pytest.raises(DatabaseUnavailable):
            async with database.unit_of_work() as uow:
                await uow.session.execute(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailable):
            await database.calls.notify("few", "")
    finally:
        done.set()
        await asyncio.gather(*holding)
        await holder.close()
        await database.close()
