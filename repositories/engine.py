"""The engine: pool, session settings, and which errors say that PostgreSQL cannot be used now.

A server that takes no writes (a primary made read-only, one that became a standby) is as good as one that is away: its
connections are thrown out of the pool, and new ones to it are refused, so that the next one that succeeds is to a server
that takes writes, at whatever address the name has by then. PostgreSQL tells its clients that it became read-only without
being asked; behind a pooler only a refused write says so.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
from asyncpg.exceptions import InternalClientError, InvalidCachedStatementError, TargetServerAttributeNotMatched
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from config import DbSettings, database_url
from repositories.connections import arguments

_PING_AFTER = 1.0  # seconds of idleness after which a pooled connection is asked whether it still lives
# SQLSTATE classes that say "not now": connection (08), resources (53), operator intervention (57), system (58),
# serialisation and deadlock (40), lock timeout (55P03), idle transaction ended (25P03), no writes (25006).
_TRANSIENT = ("08", "53", "57", "58", "40", "55P03", "25P03", "25006")
# Those after which no connection of the pool is worth keeping: shut down, crashed, starting, unreachable, or no writes.
_GONE = ("08", "57P01", "57P02", "57P03", "25006")


def is_unavailable(error: BaseException) -> bool:
    """Whether the error says that PostgreSQL cannot be used now, rather than that the statement is wrong."""
    if isinstance(error, (OperationalError, InterfaceError, PoolTimeout, OSError, asyncio.TimeoutError)):
        return True
    if isinstance(_driver_error(error), TargetServerAttributeNotMatched):  # new, and the server takes no writes
        return True
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        state = str(getattr(error.orig, "sqlstate", "") or "")
        return state.startswith(_TRANSIENT) or isinstance(error.orig, (OSError, TimeoutError))
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate or "").startswith(_TRANSIENT)
    # InternalClientError: a connection was used as the server's farewell to it came in.
    return isinstance(error, (asyncpg.InterfaceError, InternalClientError))


def sqlstate(error: BaseException) -> str:
    """PostgreSQL's five characters for what went wrong; empty when it said nothing."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(origin, "sqlstate", "") or "")


def _driver_error(error: BaseException) -> BaseException | None:
    """asyncpg's own error: SQLAlchemy wraps it twice."""
    return error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig is not None else error


def is_crowded(error: BaseException) -> bool:
    """Whether the server refused a connection because it has as many as it takes."""
    return isinstance(_driver_error(error), asyncpg.TooManyConnectionsError)


def is_outdated(error: BaseException) -> bool:
    """Whether a statement was prepared before its table changed. Nothing was done; its transaction has failed."""
    return isinstance(_driver_error(error), InvalidCachedStatementError)


def takes_no_writes(connection: Any) -> bool:
    """What the server last said of itself to asyncpg, with no round trip; behind a pooler it says nothing."""
    told = connection.get_settings()
    return "on" in (getattr(told, "in_hot_standby", "off"), getattr(told, "default_transaction_read_only", "off"))


def _check_at_checkout(engine: AsyncEngine, patience: float) -> None:
    """As pool_pre_ping, but for connections in steady use, where a ping before each statement costs as much as it.

    One that does not answer within `patience` seconds, or is to a server that takes no writes, empties the pool.
    """
    sync = engine.sync_engine

    @event.listens_for(sync, "checkin")
    def returned(_connection: Any, record: Any) -> None:
        record.info["returned"] = time.monotonic()

    @event.listens_for(sync, "checkout")
    def taken(connection: Any, record: Any, _proxy: Any) -> None:
        if "returned" not in record.info:  # new
            return
        if takes_no_writes(connection.driver_connection):
            raise InvalidatePoolError
        if time.monotonic() - record.info["returned"] > _PING_AFTER:
            try:
                connection.run_async(lambda driver: driver.execute("SELECT 1", timeout=patience))
            except Exception as error:
                raise InvalidatePoolError from error  # the pool makes another one


def _discard_gone(engine: AsyncEngine) -> None:
    """After an error that says so, neither its connection nor those of the pool are used again."""

    @event.listens_for(engine.sync_engine, "handle_error")
    def failed(context: Any) -> None:
        error = context.original_exception
        # No answer, although the server's own statement_timeout was over: it went silently.
        if sqlstate(error).startswith(_GONE) or isinstance(error, TimeoutError):
            context.is_disconnect = True


def driver_arguments(settings: DbSettings, application_name: str) -> dict[str, Any]:
    """asyncpg's arguments for the connections of a pool."""
    values = {
        "timezone": "UTC",
        "jit": "off",
        "statement_timeout": str(int(settings.STATEMENT_TIMEOUT * 1000)),
        "lock_timeout": str(int(settings.STATEMENT_TIMEOUT * 1000)),
        # A writer that stalls in mid-transaction (a stopped process) must not hold its row locks for long.
        "idle_in_transaction_session_timeout": "3000",
    }
    given = arguments(settings, application_name, values, startup={"tcp_user_timeout": "5000"})
    if settings.POOLER != "transaction":  # there the question itself would be two messages
        given["target_session_attrs"] = "read-write"
    return {"command_timeout": settings.STATEMENT_TIMEOUT + 1, **given}


def make_engine(settings: DbSettings, application_name: str, *, dedicated: bool) -> AsyncEngine:
    """An engine with the pool of the settings; `dedicated`: with one connection, which is never recycled."""
    engine = create_async_engine(
        database_url(settings),
        poolclass=AsyncAdaptedQueuePool,
        pool_size=1 if dedicated else settings.POOL_SIZE,
        max_overflow=0 if dedicated else settings.MAX_OVERFLOW,
        pool_timeout=settings.POOL_TIMEOUT,
        pool_use_lifo=True,
        pool_recycle=-1 if dedicated else 1800,
        connect_args=driver_arguments(settings, application_name),
        hide_parameters=True,  # exception texts would carry camera URLs
    )
    _check_at_checkout(engine, settings.CONNECT_TIMEOUT)
    _discard_gone(engine)
    return engine
