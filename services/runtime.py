"""Everything that a process runs, opened in order and closed in reverse (`open_services`)."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from config import Environment, Settings
from repositories.database import Database, is_unavailable
from repositories.migrations.run import upgrade
from services.access.api_keys import ApiKeys
from services.access.audit_log import AuditLog
from services.access.service import Access
from services.cameras.burst import BurstService
from services.cameras.registry import CameraRegistry
from services.cameras.snapshots import Snapshots
from services.events.event_log import EventLog
from services.events.relay import LogHead, Relay
from services.execution.embedded_parts import StartError, start_embedded
from services.execution.health import Degraded, HealthService
from services.housekeeping.bucket_marker import BucketMarker
from services.housekeeping.retention import Retention
from services.housekeeping.secrets import open_box, put_in_order
from services.housekeeping.sweeper import Sweeper
from services.idempotency.service import IdempotencyService
from services.orchestrator import Orchestrator
from services.reads.queries import Queries
from services.rtsp_capture.captures.context import CaptureDeps
from services.rtsp_capture.connection.address import AddressPolicy
from services.rtsp_capture.connection.opencv_reader import OpenCvReader
from services.rtsp_capture.connection.preflight import preflight
from services.rtsp_capture.connection.pyav_reader import PyAvReader
from services.rtsp_capture.connection.reader import ReaderFactory
from services.rtsp_capture.frames.picture_budget import PictureBudget
from services.rtsp_capture.streams.hub import StreamHub
from services.rtsp_capture.streams.keep_open import KeepOpenStreams
from services.rtsp_capture.streams.probe import Prober
from services.rtsp_capture.streams.stream import StreamDeps
from services.spool.replay import Replay
from services.spool.spool import Spool
from services.storage_service.service import StorageService
from services.upload_handler.handler import UploadHandler
from services.upload_sessions.sessions import UploadSessions
from services.upload_sessions.sweeper import StagingSweeper
from utils.embedded.errors import DataDirLocked
from utils.embedded.lock import DataDirLock
from utils.exceptions import IngestionException
from utils.logger import get_logger
from utils.pool import WorkerPool
from utils.urls import mask_text

__all__ = ["Services", "StartError", "open_services"]

log = get_logger(__name__)

START_PATIENCE = 30.0  # seconds that a start waits for PostgreSQL and the object store to answer
STAGING_SWEEP_EVERY = 60.0  # seconds; of short UPLOAD__SESSION_TTL a quarter
SPOOL_OLD = 60.0  # seconds that a spooled frame may wait before health says degraded


@dataclass(slots=True)
class Services:
    """What the HTTP layer is given."""

    settings: Settings
    orchestrator: Orchestrator
    queries: Queries
    health: HealthService
    cameras: CameraRegistry
    snapshots: Snapshots
    bursts: BurstService
    event_log: EventLog
    idempotency: IdempotencyService
    direct: UploadSessions
    access: Access
    api_keys: ApiKeys
    audit_log: AuditLog


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Starts everything, yields it, stops it within API__SHUTDOWN_TIMEOUT.

    Raises StartError with a readable reason when a part does not come up.
    """
    async with AsyncExitStack() as stack:
        effective = await start_embedded(settings, stack)
        await _with_patience("PostgreSQL (DB__HOST, DB__PORT, DB__USER, DB__PASSWORD)", partial(upgrade, effective.DB))
        secrets = open_box(settings)
        database = Database(effective.DB)
        stack.push_async_callback(database.close)
        await _check_durability(settings, database)
        access = await Access.open(settings, database)
        access.start()
        stack.push_async_callback(access.stop)
        patience = min(effective.DB.STATEMENT_TIMEOUT, settings.RTSP.LEASE_TTL / 3)
        renewing = effective.DB.model_copy(update={"STATEMENT_TIMEOUT": patience, "POOL_TIMEOUT": patience})
        leases = Database(renewing, "trackshift-leases", dedicated=True)
        stack.push_async_callback(leases.close)
        storage = StorageService(effective.STORAGE)
        stack.push_async_callback(storage.close)
        await _with_patience("the object store (STORAGE__ENDPOINT and keys)", storage.ensure_bucket)

        policy = _policy(effective)
        decode_pool = WorkerPool("decode", settings.RTSP.DECODE_THREADS)
        stack.push_async_callback(decode_pool.close)
        check = partial(_preflight, settings, policy)
        readers: dict[str, ReaderFactory] = {"opencv": OpenCvReader, "pyav": PyAvReader}
        streams = StreamDeps(settings.RTSP, check, readers[settings.RTSP.READER], decode_pool, readers)
        hub = StreamHub(streams)
        stack.push_async_callback(hub.close)
        prober = Prober(streams)
        stack.push_async_callback(prober.close)
        uploads = UploadHandler(settings, storage)
        stack.push_async_callback(uploads.close)
        pictures = PictureBudget(settings.RTSP.PICTURE_BUDGET, settings.STORAGE.THREADS)
        spool = await _open_spool(settings, stack)
        replay = Replay(spool, database, storage, lambda: pictures.contended)
        capture = CaptureDeps(settings.RTSP, database, storage, hub, secrets, pictures, spool)
        orchestrator = Orchestrator(settings, capture, leases, uploads, policy, access.shares)
        queries = Queries(database, storage, secrets, access.cursors)
        keeper = KeepOpenStreams(database, hub, secrets)
        cameras = CameraRegistry(database, secrets, policy, keeper, prober, access.cursors)
        snapshots = Snapshots(capture, orchestrator, queries)
        bursts = BurstService(settings.RTSP, database, storage, hub, secrets, orchestrator)
        direct = UploadSessions(settings, database, storage, uploads, access.shares)
        stack.callback(direct.stop)
        every = max(1.0, min(STAGING_SWEEP_EVERY, settings.UPLOAD.SESSION_TTL / 4))
        sweeping = asyncio.create_task(StagingSweeper(database, storage, every).run(), name="staging-sweeper")
        stack.push_async_callback(_cancelled, sweeping)
        idempotency = IdempotencyService(settings.API, database, storage, secrets)
        marker = BucketMarker(database, storage)
        sweeper = Sweeper(settings.SWEEPER, database, storage, marker)
        retention = Retention(settings.RETENTION, database, storage, marker)
        required = {"database": _database_check(database), "storage": _storage_check(storage)}
        health = HealthService(required, {"spool": partial(_check_spool, spool), "sweeper": sweeper.check})
        sealing = asyncio.create_task(put_in_order(database, secrets, everything=not settings.DB.HOST), name="secrets")
        stack.push_async_callback(_cancelled, sealing)
        head = LogHead()
        relay = Relay(database, head, settings.EVENTS.RETENTION)
        relay.start()
        stack.push_async_callback(relay.stop)
        event_log = EventLog(database, head, settings.EVENTS.MAX_READERS)
        await replay.restore_grids()
        replay.start()
        stack.push_async_callback(replay.stop)
        idempotency.start()
        stack.push_async_callback(idempotency.stop)
        sweeper.start()
        stack.push_async_callback(sweeper.stop)
        retention.start()
        stack.push_async_callback(retention.stop)
        keeper.start()
        stack.push_async_callback(keeper.stop)
        orchestrator.start()
        stack.push_async_callback(orchestrator.stop, settings.API.SHUTDOWN_TIMEOUT / 2)
        log.info(
            "started", environment=settings.ENVIRONMENT.value, data_dir=str(settings.DATA_DIR),
            database="embedded" if not settings.DB.HOST else settings.DB.HOST,
            storage="embedded" if not settings.STORAGE.ENDPOINT else settings.STORAGE.ENDPOINT,
        )  # fmt: skip
        # What imports and start-up made (boto3's models above all) lives as long as the process: left to the collector,
        # each of its full runs holds the event loop for 200-360 ms.
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)
        yield Services(
            settings=settings,
            orchestrator=orchestrator,
            queries=queries,
            health=health,
            cameras=cameras,
            snapshots=snapshots,
            bursts=bursts,
            event_log=event_log,
            idempotency=idempotency,
            direct=direct,
            access=access,
            api_keys=ApiKeys(database, access.cursors),
            audit_log=AuditLog(database, access.cursors),
        )
        health.stopping = True


async def _with_patience(what: str, work: Callable[[], Awaitable[object]]) -> None:
    """Runs `work`, again while its part is still coming up. Raises StartError."""
    deadline = time.monotonic() + START_PATIENCE
    told = False
    while True:
        try:
            await work()
            return
        except Exception as error:
            transient = is_unavailable(error) or (isinstance(error, IngestionException) and error.retryable)
            if not transient or time.monotonic() > deadline:
                reason = mask_text(str(error) or "no answer").splitlines()[0]
                raise StartError(f"{what} cannot be used: {type(error).__name__}: {reason}") from error
            if not told:
                log.info("waiting_for", part=what, reason=type(error).__name__)
                told = True
        await asyncio.sleep(0.5)


async def _check_durability(settings: Settings, database: Database) -> None:
    """Acknowledged means durable (rule 8): production refuses a PostgreSQL that may forget."""
    found = await database.durability_settings()
    if int(found["server_version_num"]) < 150_000:
        raise StartError("PostgreSQL is older than 15.")
    off = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if found[name] == "off"]
    if off and settings.ENVIRONMENT is Environment.PRODUCTION:
        raise StartError(f"PostgreSQL runs with {', '.join(off)} off: it can lose what was acknowledged.")
    if off:
        log.warning("database_not_durable", off=off)


def _policy(settings: Settings) -> AddressPolicy:
    """Where cameras may be. The service's own ports on loopback only when the operator named the networks himself."""
    own: list[int] = []
    if settings.RTSP.ALLOWED_NETWORKS is None:
        store = urlsplit(
            settings.STORAGE.ENDPOINT if "://" in settings.STORAGE.ENDPOINT else f"//{settings.STORAGE.ENDPOINT}"
        )
        own = [port for port in (settings.API.PORT, settings.DB.PORT, store.port, settings.REDIS.PORT) if port]
    return AddressPolicy(settings.camera_networks, own)


async def _preflight(settings: Settings, policy: AddressPolicy, camera: Any) -> Any:
    return await preflight(camera, policy, settings.RTSP.OPEN_TIMEOUT, tls_verify=settings.RTSP.TLS_VERIFY)


def _database_check(database: Database) -> Callable[[], Awaitable[str | None]]:
    async def check() -> str | None:
        return f"PostgreSQL {(await database.check())['version']}"

    return check


def _storage_check(storage: StorageService) -> Callable[[], Awaitable[str | None]]:
    async def check() -> str | None:
        await storage.check()
        return f"bucket {storage.bucket}"

    return check


async def _open_spool(settings: Settings, stack: AsyncExitStack) -> Spool:
    """The spool in its folder, which no other process has. Raises StartError."""
    folder = settings.spool_dir
    lock, spool = DataDirLock(folder), Spool(settings.SPOOL, folder)
    try:
        lock.acquire()
        stack.callback(lock.release)
        stack.push_async_callback(spool.close)
        await spool.open()
    except DataDirLocked:
        raise StartError(f"SPOOL__DIR {folder} is in use by another service: give this one a folder of its own.") from None
    except OSError as error:
        raise StartError(f"SPOOL__DIR {folder} cannot be used: {error.strerror}.") from error
    return spool


async def _check_spool(spool: Spool) -> str:
    state = spool.state()
    told = f"{state.frames} frames, {state.bytes} bytes, the oldest {state.oldest:.0f} s"
    if state.full:
        raise Degraded(f"full: frames were dropped; {told}")
    if state.oldest > SPOOL_OLD:
        raise Degraded(f"frames wait for store or database; {told}")
    return told


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
