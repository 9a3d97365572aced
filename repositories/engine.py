"""The engine: pool, session settings, and which errors say that PostgreSQL cannot be used now."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from config import DbSettings, database_url

_PING_AFTER = 1.0  # seconds of idleness after which a pooled connection is asked whether it still lives
# SQLSTATE classes that say "not now": connection (08), resources (53), operator intervention (57), system (58),
# serialisation and deadlock (40), lock timeout (55P03), idle transaction ended (25P03).
_TRANSIENT = ("08", "53", "57", "58", "40", "55P03", "25P03")


def is_unavailable(error: BaseException) -> bool:
    """Whether the error says that PostgreSQL cannot be used now, rather than that the statement is wrong."""
    if isinstance(error, (OperationalError, InterfaceError, PoolTimeout, OSError, asyncio.TimeoutError)):
        return True
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        state = str(getattr(error.orig, "sqlstate", "") or "")
        return state.startswith(_TRANSIENT) or isinstance(error.orig, (OSError, TimeoutError))
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate or "").startswith(_TRANSIENT)
    return isinstance(error, asyncpg.InterfaceError)


def sqlstate(error: BaseException) -> str:
    """PostgreSQL's five characters for what went wrong; empty when it said nothing."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(origin, "sqlstate", "") or "")


def _ping_idle(engine: AsyncEngine) -> None:
    """As pool_pre_ping, but for connections in steady use, where a ping before each statement costs as much as it."""
    sync = engine.sync_engine

    @event.listens_for(sync, "checkin")
    def returned(_connection: Any, record: Any) -> None:
        record.info["returned"] = time.monotonic()

    @event.listens_for(sync, "checkout")
    def taken(connection: Any, record: Any, _proxy: Any) -> None:
        idle = time.monotonic() - record.info.get("returned", float("inf"))
        if _PING_AFTER < idle < float("inf"):
            try:
                sync.dialect.do_ping(connection)
            except Exception as error:
                raise DisconnectionError from error  # the pool makes another one


def make_engine(settings: DbSettings, application_name: str, *, dedicated: bool) -> AsyncEngine:
    """An engine with the pool of the settings; `dedicated`: with one connection, which is never recycled."""
    server_settings = {
        "application_name": application_name,
        "timezone": "UTC",
        "jit": "off",
        "statement_timeout": str(int(settings.STATEMENT_TIMEOUT * 1000)),
        "lock_timeout": str(int(settings.STATEMENT_TIMEOUT * 1000)),
        # A writer that stalls in mid-transaction (a stopped process) must not hold its row locks for long.
        "idle_in_transaction_session_timeout": "3000",
        "tcp_user_timeout": "5000",
    }
    engine = create_async_engine(
        database_url(settings),
        poolclass=AsyncAdaptedQueuePool,
        pool_size=1 if dedicated else settings.POOL_SIZE,
        max_overflow=0 if dedicated else settings.MAX_OVERFLOW,
        pool_timeout=settings.POOL_TIMEOUT,
        pool_use_lifo=True,
        pool_recycle=-1 if dedicated else 1800,
        connect_args={
            "timeout": settings.CONNECT_TIMEOUT,
            "command_timeout": settings.STATEMENT_TIMEOUT + 1,
            "ssl": settings.SSL if not settings.HOST.startswith("/") else False,
            "server_settings": server_settings,
        },
        hide_parameters=True,  # exception texts would carry camera URLs
    )
    _ping_idle(engine)
    return engine
