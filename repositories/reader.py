"""A pool of plain asyncpg connections for single statements: hot reads, and the rows of captures.

Connections are made when they are needed, up to DB__POOL_SIZE, and closed after a minute without use. Callers beyond
that wait in order (`repositories.connection_queue`). As with the engine's, a server that takes no writes counts as away.

What was used well is kept here for the next one: to give it back to asyncpg's pool and to ask for it again takes as much CPU
time as a small statement. After a second without any use, and after a failure, the pool has them all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

import asyncpg
from pydantic_core import from_json

from config import DbSettings
from repositories.connection_queue import ConnectionQueue
from repositories.connections import connect_by
from repositories.engine import driver_arguments, is_crowded, is_outdated, is_unavailable, takes_no_writes
from utils.metrics import DB_READ_POOL, follow

T = TypeVar("T")
_IDLE_SECONDS = 60.0
_PING_AFTER = 1.0  # seconds without any read after which a connection is asked whether it still lives
_USES = 10_000  # after which asyncpg's pool has it, which closes it after 50,000 statements


class Row(asyncpg.Record):  # type: ignore[misc]
    """A row whose columns are attributes, as those of an entity."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class _Kept(NamedTuple):
    """A connection of the pool, at rest."""

    connection: asyncpg.Connection
    uses: int
    since: float  # monotonic


def _end(connection: asyncpg.Connection) -> None:
    """Its place is the pool's again."""
    with suppress(asyncpg.InterfaceError):  # the pool has taken it back already
        connection.terminate()


def _lost(connection: asyncpg.Connection) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True


class Reader:
    """Of one event loop. Opened with its first use."""

    def __init__(self, settings: DbSettings, application_name: str, unavailable: Callable[[Exception], Exception]) -> None:
        """`unavailable` makes what callers get of an error that says that PostgreSQL cannot be used now."""
        self._settings, self._unavailable = settings, unavailable
        self._given = driver_arguments(settings, f"{application_name}-reads")
        self._queue = ConnectionQueue(settings.POOL_SIZE, settings.POOL_TIMEOUT)
        self._pool: asyncpg.Pool | None = None
        self._kept: list[_Kept] = []  # the one used last is used first
        self._failures = 0
        self._opening = asyncio.Lock()
        self._read_at = 0.0  # monotonic

    async def read(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Runs some reads one after the other, each a transaction by itself. Raises what `unavailable` makes.

        Reads repeat nothing: after a connection that was lost while it lay in the pool, they are run once more on a new one.
        """
        try:
            try:
                return await self._run(work, readonly=True)
            except Exception as error:
                if not is_unavailable(error) or isinstance(error, TimeoutError):
                    raise
            return await self._run(work, readonly=True)
        except Exception as error:
            if not is_unavailable(error):
                raise
            raise self._unavailable(error) from error

    async def write(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Runs one statement that writes, a transaction by itself; once: what became of it when its connection was lost is
        unknown. Raises what `unavailable` makes."""
        try:
            return await self._run(work, readonly=False)
        except Exception as error:
            if not (is_unavailable(error) or is_outdated(error)):
                raise
            raise self._unavailable(error) from error

    async def _run(self, work: Callable[[asyncpg.Connection], Awaitable[T]], *, readonly: bool) -> T:
        pool = self._pool or await self._open()
        await self._queue.take()
        try:
            connection, uses = await self._lent(pool)
            failures, well = self._failures, False
            try:
                if takes_no_writes(connection):
                    raise asyncpg.ReadOnlySQLTransactionError("the server takes no writes")
                if self._settings.POOLER != "transaction":
                    found = await work(connection)
                else:  # its two messages a statement may reach two sessions of the server
                    async with connection.transaction(readonly=readonly):
                        found = await work(connection)
                well = uses < _USES and failures == self._failures
            finally:
                now = time.monotonic()
                if well:
                    self._kept.append(_Kept(connection, uses + 1, now))
                else:
                    await pool.release(connection)
        except Exception as error:
            if is_unavailable(error):
                self._failures += 1  # none of them is trusted after this
                await pool.expire_connections()
                for kept in self._kept:
                    _end(kept.connection)
                self._kept.clear()
            raise
        finally:
            self._queue.give_back()
        self._read_at = now
        return found

    async def _lent(self, pool: asyncpg.Pool) -> tuple[asyncpg.Connection, int]:
        """A connection, and how often it was used. Raises what the pool raises."""
        if (rested := await self._rested(pool)) is not None:
            return rested
        return await self._queue.opened(partial(self._acquire, pool), is_crowded)

    async def _rested(self, pool: asyncpg.Pool) -> tuple[asyncpg.Connection, int] | None:
        """One that is kept here; those that are old go to the pool."""
        now = time.monotonic()
        while self._kept:
            unused = now - self._read_at > _PING_AFTER
            kept = self._kept.pop(0 if unused or now - self._kept[0].since > _IDLE_SECONDS else -1)
            if _lost(kept.connection):
                _end(kept.connection)
            elif unused or now - kept.since > _IDLE_SECONDS:
                await pool.release(kept.connection)
            else:
                return kept.connection, kept.uses
        return None

    async def _acquire(self, pool: asyncpg.Pool) -> tuple[asyncpg.Connection, int]:
        """One that was given back since it was asked for, else the pool's."""
        return await self._rested(pool) or (await pool.acquire(timeout=self._settings.POOL_TIMEOUT), 0)

    async def _open(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                self._pool = pool = await asyncpg.create_pool(
                    min_size=0, max_size=self._settings.POOL_SIZE, max_inactive_connection_lifetime=_IDLE_SECONDS,
                    connect=self._connect, setup=self._check, reset=_nothing,
                )  # fmt: skip
                follow(DB_READ_POOL, lambda: pool.get_size() - pool.get_idle_size() - len(self._kept))
        return self._pool

    async def _connect(self, *_: Any, **__: Any) -> asyncpg.Connection:
        """asyncpg calls it with the arguments of `create_pool`; address and the session's values are those of the engine."""
        connection = await connect_by(self._settings, self._given)
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=from_json)
        return connection

    async def _check(self, connection: asyncpg.Connection) -> None:
        """Before each use. What fails here is raised to the caller, and the connection closed."""
        if time.monotonic() - self._read_at > _PING_AFTER:
            await connection.execute("SELECT 1", timeout=self._settings.CONNECT_TIMEOUT)

    async def close(self) -> None:
        self._kept.clear()
        if self._pool is not None:
            self._pool.terminate()


async def _nothing(_: Any) -> None:
    """Reads leave nothing behind on a connection: asyncpg's own reset would be a second round trip."""
