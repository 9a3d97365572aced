"""Engine, pool and unit of work.

One `UnitOfWork` is one transaction: committed when its block ends, rolled back when the block raises. Belongs to
one event loop. Every way in which PostgreSQL can be out of reach becomes DatabaseUnavailable; a wrong statement
stays the error that it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cached_property
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from config import DbSettings, database_url
from repositories.access.api_keys import ApiKeyRepository
from repositories.access.audit import AuditRepository
from repositories.access.browser_sessions import BrowserSessionRepository
from repositories.access.state import AccessStateRepository
from repositories.camera_configs import CameraConfigRepository
from repositories.capture_events import CaptureEventRepository
from repositories.captures import CaptureRepository
from repositories.event_log import EventLogRepository
from repositories.frames import FrameRepository
from repositories.idempotency import IdempotencyRepository
from repositories.ingestion_requests import IngestionRequestRepository
from repositories.leases import LeaseRepository
from repositories.ledger import Ledger
from repositories.object_keys import ObjectKeyRepository
from repositories.secrets import SecretsRepository
from repositories.storage_usage import StorageUsageRepository
from repositories.upload_sessions import UploadSessionRepository
from utils.exceptions import DatabaseUnavailable
from utils.logger import Throttle, get_logger
from utils.metrics import DB_ERRORS, DB_POOL

log = get_logger(__name__)
T = TypeVar("T")

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


class UnitOfWork:
    """The repositories on one session."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    @cached_property
    def requests(self) -> IngestionRequestRepository:
        return IngestionRequestRepository(self.session)

    @cached_property
    def captures(self) -> CaptureRepository:
        return CaptureRepository(self.session)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.session)

    @cached_property
    def frames(self) -> FrameRepository:
        return FrameRepository(self.session)

    @cached_property
    def leases(self) -> LeaseRepository:
        return LeaseRepository(self.session)

    @cached_property
    def cameras(self) -> CameraConfigRepository:
        return CameraConfigRepository(self.session)

    @cached_property
    def events(self) -> CaptureEventRepository:
        return CaptureEventRepository(self.session)

    @cached_property
    def event_log(self) -> EventLogRepository:
        return EventLogRepository(self.session)

    @cached_property
    def keys(self) -> IdempotencyRepository:
        return IdempotencyRepository(self.session)

    @cached_property
    def secrets(self) -> SecretsRepository:
        return SecretsRepository(self.session)

    @cached_property
    def object_keys(self) -> ObjectKeyRepository:
        return ObjectKeyRepository(self.session)

    @cached_property
    def usage(self) -> StorageUsageRepository:
        return StorageUsageRepository(self.session)

    @cached_property
    def upload_sessions(self) -> UploadSessionRepository:
        return UploadSessionRepository(self.session)

    @cached_property
    def api_keys(self) -> ApiKeyRepository:
        return ApiKeyRepository(self.session)

    @cached_property
    def browser_sessions(self) -> BrowserSessionRepository:
        return BrowserSessionRepository(self.session)

    @cached_property
    def audit(self) -> AuditRepository:
        return AuditRepository(self.session)

    @cached_property
    def access_state(self) -> AccessStateRepository:
        return AccessStateRepository(self.session)


class Exclusive:
    """What one session at a time may do, as long as its connection lives."""

    def __init__(self, connection: AsyncConnection, backend: int) -> None:
        self._connection = connection
        self._backend = backend

    async def check(self) -> None:
        """Raises DatabaseUnavailable when the lock went with its connection: another process may have it."""
        try:
            # Once invalidated it would be made anew, by a session without the lock.
            same = not self._connection.invalidated
            same = same and await self._connection.scalar(text("SELECT pg_backend_pid()")) == self._backend
        except Exception as error:
            if not is_unavailable(error):
                raise
            same = False
        if not same:
            raise DatabaseUnavailable("The connection that held the lock was lost.")


class Database:
    """The engine of a process. `application_name` shows in pg_stat_activity.

    `dedicated`: one connection, kept for the process's life, for work that must not wait behind other work.
    """

    def __init__(
        self, settings: DbSettings, application_name: str = "trackshift-ingestion", *, dedicated: bool = False
    ) -> None:
        self._pool_timeout = settings.POOL_TIMEOUT
        self._throttle = Throttle(10, asyncio.get_event_loop().time)
        self.on_commit: Callable[[], None] = lambda: None  # called after transactions that may have made events
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
        self._direct: dict[str, Any] = {
            "host": settings.HOST, "port": settings.PORT, "user": settings.USER, "database": settings.NAME,
            "password": settings.PASSWORD.get_secret_value() or None, "timeout": settings.CONNECT_TIMEOUT,
            "ssl": settings.SSL if not settings.HOST.startswith("/") else False,
            "server_settings": {"application_name": f"{application_name}-listen"},
        }  # fmt: skip
        self.engine: AsyncEngine = create_async_engine(
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
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        single = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._single = async_sessionmaker(single, expire_on_commit=False)
        _ping_idle(self.engine)
        pool = self.engine.sync_engine.pool
        if not dedicated:
            DB_POOL.set_function(lambda: pool.checkedout() if isinstance(pool, AsyncAdaptedQueuePool) else 0)

    def unit_of_work(self, *, events: bool = True) -> AbstractAsyncContextManager[UnitOfWork]:
        """One transaction; without `events` it reads, or writes what no event tells of, and `on_commit` is not called.

        Raises DatabaseUnavailable; after a failed COMMIT its outcome is unknown (rule 4).
        """
        return self._work(self._sessions, events)

    def one_statement(self, *, events: bool = True) -> AbstractAsyncContextManager[UnitOfWork]:
        """As `unit_of_work`, but each statement is a transaction by itself: one round trip instead of three."""
        return self._work(self._single, events)

    @asynccontextmanager
    async def _work(self, sessions: async_sessionmaker[AsyncSession], events: bool) -> AsyncIterator[UnitOfWork]:
        try:
            async with sessions() as session, session.begin():
                yield UnitOfWork(session)
            if events:
                self.on_commit()
        except Exception as error:
            if not is_unavailable(error):
                raise
            DB_ERRORS.labels(kind="unavailable").inc()
            if (withheld := self._throttle.allow("unavailable")) is not None:
                log.warning(
                    "database_unavailable", error=(str(error) or "-").splitlines()[0], kind=type(error).__name__,
                    withheld=withheld,
                )  # fmt: skip
            raise DatabaseUnavailable(retry_after=2) from error

    async def retry_until_known(
        self, work: Callable[[UnitOfWork], Awaitable[T]], *, tries: int = 3, pause: float = 0.2
    ) -> T:
        """Runs an idempotent transaction again until its outcome is known (rule 4). Raises DatabaseUnavailable.

        The work carries its own ids and says ON CONFLICT, so a second run of one that had committed changes nothing.
        """
        for attempt in range(1, tries + 1):
            try:
                async with self.unit_of_work() as uow:
                    return await work(uow)
            except DatabaseUnavailable:
                if attempt == tries:
                    raise
                await asyncio.sleep(pause * attempt)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def exclusive(self, key: int) -> AsyncIterator[Exclusive | None]:
        """The advisory lock `key` for the block, on a connection of its own; None when another session has it.

        Raises DatabaseUnavailable.
        """
        single, ours = self.engine.execution_options(isolation_level="AUTOCOMMIT"), False
        try:
            async with single.connect() as connection:
                pair = text("SELECT pg_try_advisory_lock(:key) AS taken, pg_backend_pid() AS backend")
                row = (await connection.execute(pair, {"key": key})).one()
                ours = True
                try:
                    yield Exclusive(connection, row.backend) if row.taken else None
                finally:
                    try:
                        if row.taken:
                            await connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})
                    except Exception:
                        await connection.invalidate()  # closed: the server lets go of the lock
        except Exception as error:
            if ours or not is_unavailable(error):  # the block's own errors pass through as they are
                raise
            raise DatabaseUnavailable(retry_after=2) from error

    @asynccontextmanager
    async def notifications(self, channel: str, on_notify: Callable[[], None]) -> AsyncIterator[asyncio.Event]:
        """LISTENs on a connection of its own for the block; yields an event that is set when that connection is lost.

        What was notified before, or while it is lost, is not told. Raises DatabaseUnavailable.
        """
        lost = asyncio.Event()
        try:
            connection = await asyncpg.connect(**self._direct)
        except Exception as error:
            if not is_unavailable(error):
                raise
            raise DatabaseUnavailable(retry_after=2) from error
        try:
            connection.add_termination_listener(lambda _connection: lost.set())
            await connection.add_listener(channel, lambda *_: on_notify())
            yield lost
        except (asyncpg.PostgresError, OSError) as error:
            raise DatabaseUnavailable(retry_after=2) from error
        finally:
            connection.terminate()

    async def version(self) -> str:
        """PostgreSQL's version, by one cheap query on the live pool. Raises DatabaseUnavailable."""
        async with self.unit_of_work() as uow:
            return str(await uow.session.scalar(text("SELECT current_setting('server_version')")))

    async def durability_settings(self) -> dict[str, str]:
        """fsync, full_page_writes and synchronous_commit as this session has them."""
        names = ("fsync", "full_page_writes", "synchronous_commit", "server_version_num")
        async with self.unit_of_work() as uow:
            row = (
                await uow.session.execute(text("SELECT " + ", ".join(f"current_setting('{name}')" for name in names)))
            ).one()
            return dict(zip(names, row, strict=True))

    async def close(self) -> None:
        await self.engine.dispose()
