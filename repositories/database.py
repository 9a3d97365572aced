"""The database of a process, and the unit of work.

One `UnitOfWork` is one transaction: committed when its block ends, rolled back when the block raises. Belongs to
one event loop. Every way in which PostgreSQL can be out of reach becomes DatabaseUnavailable; a wrong statement
stays the error that it is.

Longer than 250 lines: the engine, its connections' settings and the mapping of its errors rely on each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cached_property, partial
from typing import TypeVar
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker
from sqlalchemy.pool import AsyncAdaptedQueuePool

from config import DbSettings
from models.values import DropReason, FrameRecord, NewCapture
from repositories.access.api_keys import ApiKeyRepository
from repositories.access.audit import AuditRepository
from repositories.access.browser_sessions import BrowserSessionRepository
from repositories.access.state import AccessStateRepository
from repositories.access.ws_tickets import WsTicketRepository
from repositories.camera_configs import CameraConfigRepository
from repositories.camera_quality import CameraQualityRepository
from repositories.capture_events import CaptureEventRepository
from repositories.captures import CaptureRepository
from repositories.connection_queue import ConnectionQueue
from repositories.connections import connect
from repositories.engine import is_crowded, is_outdated, is_unavailable, make_engine
from repositories.event_log import EventLogRepository
from repositories.frames import FrameRepository
from repositories.heartbeats import Heartbeats
from repositories.hot_reads import HotReads, RequestRow
from repositories.idempotency import IdempotencyRepository
from repositories.ingestion_requests import IngestionRequestRepository
from repositories.leases import LeaseRepository
from repositories.ledger import RECORD, Ledger, Recorded, record_arguments
from repositories.new_captures import admit
from repositories.object_keys import ObjectKeyRepository
from repositories.pairs import PairRepository
from repositories.reader import Reader
from repositories.retention import RetentionRepository
from repositories.secrets import SecretsRepository
from repositories.storage_usage import StorageUsageRepository
from repositories.timelines import TimelineReads
from repositories.upload_sessions import UploadSessionRepository
from repositories.uploads import StoredUpload, Upload, store
from repositories.worker_calls import WorkerCalls
from repositories.workers import WorkerRepository
from utils.exceptions import DatabaseUnavailable
from utils.logger import Throttle, get_logger
from utils.metrics import DB_ERRORS, DB_POOL, follow

log = get_logger(__name__)
T = TypeVar("T")


def _pass_on(handler: Callable[[str], None], _connection: object, _process: int, _channel: str, payload: str) -> None:
    handler(payload)


class UnitOfWork:
    """The repositories on one session."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    @cached_property
    def pairs(self) -> PairRepository:
        return PairRepository(self.session)

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
    def quality(self) -> CameraQualityRepository:
        return CameraQualityRepository(self.session)

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
    def retention(self) -> RetentionRepository:
        return RetentionRepository(self.session)

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
    def ws_tickets(self) -> WsTicketRepository:
        return WsTicketRepository(self.session)

    @cached_property
    def audit(self) -> AuditRepository:
        return AuditRepository(self.session)

    @cached_property
    def workers(self) -> WorkerRepository:
        return WorkerRepository(self.session)

    @cached_property
    def access_state(self) -> AccessStateRepository:
        return AccessStateRepository(self.session)


async def _begun(sessions: async_sessionmaker[AsyncSession]) -> AsyncSession:
    """A session that has its connection."""
    session = sessions()
    try:
        await session.connection()
    except BaseException:
        await session.close()
        raise
    return session


class Exclusive:
    """What one session at a time may do, as long as its connection lives."""

    def __init__(self, connection: AsyncConnection, backend: int) -> None:
        self._connection = connection
        self._backend = backend

    async def check(self) -> None:
        """Raises DatabaseUnavailable when the lock went with its connection: another process may have it."""
        try:
            # An invalidated one would be replaced by a session without the lock.
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
        self._throttle = Throttle(10, asyncio.get_event_loop().time)
        self.on_commit: Callable[[], None] = lambda: None  # called after transactions that may have made events
        self._direct, self._name = settings.direct, application_name
        self.keeps_sessions = self._direct.POOLER != "transaction"  # locks of sessions, notifications
        self.engine = make_engine(settings, application_name, dedicated=dedicated)
        self._queue = ConnectionQueue(1 if dedicated else settings.POOL_SIZE + settings.MAX_OVERFLOW, settings.POOL_TIMEOUT)
        self._locks = self.engine
        if settings.DIRECT_HOST:
            few = self._direct.model_copy(update={"POOL_SIZE": 1, "MAX_OVERFLOW": 3})
            self._locks = make_engine(few, application_name, dedicated=False)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        single = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._single = async_sessionmaker(single, expire_on_commit=False)
        reads = self.engine.execution_options(postgresql_readonly=True)
        self._reads = async_sessionmaker(reads, expire_on_commit=False)
        self._reader = Reader(settings, application_name, self._unavailable)
        self.hot = HotReads(self._reader)
        self.timelines = TimelineReads(self._reader)
        self.calls = WorkerCalls(self._reader)
        self.heartbeats = Heartbeats(self._reader)
        pool = self.engine.sync_engine.pool
        if not dedicated:
            follow(DB_POOL, lambda: pool.checkedout() if isinstance(pool, AsyncAdaptedQueuePool) else 0)

    def unit_of_work(self, *, events: bool = True) -> AbstractAsyncContextManager[UnitOfWork]:
        """One transaction; without `events` it reads, or writes what leads to no event, and `on_commit` is not called.

        Raises DatabaseUnavailable; after a failed COMMIT its outcome is unknown (docs/rules.md, rule 4).
        """
        return self._work(self._sessions, events)

    def one_statement(self, *, events: bool = True) -> AbstractAsyncContextManager[UnitOfWork]:
        """As `unit_of_work`, but each statement is a transaction by itself: one round trip instead of three."""
        return self._work(self._single, events)

    def reading(self) -> AbstractAsyncContextManager[UnitOfWork]:
        """A read-only transaction. A schema that is changed meanwhile does not fail it. Raises DatabaseUnavailable."""
        return self._work(self._reads, False)

    async def record(
        self, request_id: UUID, frames: Sequence[FrameRecord], drops: Mapping[DropReason, Iterable[int]], expected: int,
        idle: Iterable[int] = (),
    ) -> list[Recorded]:  # fmt: skip
        """`Ledger.record` as a transaction by itself, on a plain connection: what captures do with every frame.

        Raises DatabaseUnavailable, and asyncpg's errors for what the database refuses.
        """
        given = record_arguments(request_id, frames, drops, expected, idle)
        rows = await self._reader.write(lambda connection: connection.fetch(RECORD, *given))
        self.on_commit()
        return [Recorded(row["sequence"], row["outcome"], row["storage_path"]) for row in rows]

    @asynccontextmanager
    async def _work(self, sessions: async_sessionmaker[AsyncSession], events: bool) -> AsyncIterator[UnitOfWork]:
        try:
            async with self._queue.one(), await self._queue.opened(partial(_begun, sessions), is_crowded) as session:
                yield UnitOfWork(session)
                await session.commit()
            if events:
                self.on_commit()
        except Exception as error:
            if is_outdated(error):  # rolled back; its statements are prepared again next time
                DB_ERRORS.labels(kind="schema_changed").inc()
                log.warning("database_schema_changed")
                raise DatabaseUnavailable(retry_after=1) from error
            if not is_unavailable(error):
                raise
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> DatabaseUnavailable:
        """Counts and logs that PostgreSQL cannot be used now."""
        DB_ERRORS.labels(kind="unavailable").inc()
        if (withheld := self._throttle.allow("unavailable")) is not None:
            log.warning(
                "database_unavailable", error=(str(error) or "-").splitlines()[0], kind=type(error).__name__,
                withheld=withheld,
            )  # fmt: skip
        return DatabaseUnavailable(retry_after=2)

    async def retry_until_known(
        self, work: Callable[[UnitOfWork], Awaitable[T]], *, tries: int = 3, pause: float = 0.2
    ) -> T:
        """Runs an idempotent transaction until its outcome is known (docs/rules.md, rule 4). Raises DatabaseUnavailable.

        The work carries its own ids and says ON CONFLICT, so a second run of one that had committed changes nothing.
        """

        async def run() -> T:
            async with self.unit_of_work() as uow:
                return await work(uow)

        return await self._retried_until_known(run, tries, pause)

    async def store_upload(self, upload: Upload, audited: str) -> StoredUpload:
        """Commits a finished upload in one statement; its rows as committed. `audited`: the action of its audit row.

        Raises KeysCondemned, with nothing committed; DatabaseUnavailable.
        """
        stored = await self._retried_until_known(lambda: store(self._reader, upload, audited), 3, 0.2)
        self.on_commit()
        return stored

    async def admit_capture(self, row: NewCapture, audited: str, *, camera: int | None) -> RequestRow | None:
        """Commits a pending capture, which leads to no event, in one statement (repositories.new_captures); None where its
        camera's registration is not of that version. Raises DatabaseUnavailable."""
        return await self._retried_until_known(lambda: admit(self._reader, row, audited, camera=camera), 3, 0.2)

    @staticmethod
    async def _retried_until_known(run: Callable[[], Awaitable[T]], tries: int, pause: float) -> T:
        for attempt in range(1, tries + 1):
            try:
                return await run()
            except DatabaseUnavailable:
                if attempt == tries:
                    raise
                await asyncio.sleep(pause * attempt)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def exclusive(self, key: int) -> AsyncIterator[Exclusive | None]:
        """The advisory lock `key` for the block, on a connection of its own; None when another session has it.

        Behind a pooler that lends no sessions, the lock is that of a transaction that is open for the block: idle, it holds
        back no vacuum. Raises DatabaseUnavailable.
        """
        engine, ours = self._locks, False
        if self.keeps_sessions:
            engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        take = "pg_try_advisory_lock" if self.keeps_sessions else "pg_try_advisory_xact_lock"
        try:
            async with engine.connect() as connection:
                if not self.keeps_sessions:
                    await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                pair = text(f"SELECT {take}(:key) AS taken, pg_backend_pid() AS backend")
                row = (await connection.execute(pair, {"key": key})).one()
                ours = True
                try:
                    yield Exclusive(connection, row.backend) if row.taken else None
                finally:
                    try:
                        if row.taken and self.keeps_sessions:
                            await connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})
                        elif row.taken:
                            await connection.rollback()
                    except Exception:
                        await connection.invalidate()  # closed: the server lets go of the lock
        except Exception as error:
            if ours or not is_unavailable(error):  # the block's own errors pass through as they are
                raise
            raise DatabaseUnavailable(retry_after=2) from error

    @asynccontextmanager
    async def listen(self, handlers: Mapping[str, Callable[[str], None]]) -> AsyncIterator[asyncio.Event]:
        """LISTENs on a connection of its own for the block; yields an event that is set when that connection is lost.

        `handlers`: what is called with a notification's payload, by channel. What was notified before, or while it is lost,
        is not told. Only where `keeps_sessions`. Raises DatabaseUnavailable.
        """
        lost = asyncio.Event()
        try:
            connection = await connect(self._direct, f"{self._name}-listen", {})
        except Exception as error:
            if not is_unavailable(error):
                raise
            raise DatabaseUnavailable(retry_after=2) from error
        try:
            connection.add_termination_listener(lambda _connection: lost.set())
            for channel, handler in handlers.items():
                await connection.add_listener(channel, partial(_pass_on, handler))
            yield lost
        except (asyncpg.PostgresError, OSError) as error:
            raise DatabaseUnavailable(retry_after=2) from error
        finally:
            connection.terminate()

    def notifications(self, channel: str, on_notify: Callable[[], None]) -> AbstractAsyncContextManager[asyncio.Event]:
        """`listen` on one channel, whatever is said there."""
        return self.listen({channel: lambda _payload: on_notify()})

    async def version(self) -> str:
        """PostgreSQL's version, by one cheap query on the live pool. Raises DatabaseUnavailable."""
        async with self.one_statement(events=False) as uow:
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
        await self._reader.close()
        await self.engine.dispose()
        await self._locks.dispose()
