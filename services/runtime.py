"""Everything that a process runs, opened in order and closed in reverse (`open_services`).

Longer than 250 lines: the order is one text, to be read from top to bottom.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from config import Role, RtspSettings, Settings
from models.values import FORMER_READER
from repositories.database import Database
from services.access.api_keys import ApiKeys
from services.access.audit_log import AuditLog
from services.access.service import Access
from services.cameras.burst import BurstService
from services.cameras.discovery import Discovery
from services.cameras.holds import StreamHolds
from services.cameras.latest import LatestPictures
from services.cameras.places import CameraPlaces
from services.cameras.registry import CameraRegistry
from services.cameras.snapshots import Snapshots
from services.cameras.stream_refs import StreamRefs
from services.events.event_log import EventLog
from services.events.outbox_relay import LogHead, OutboxRelay
from services.execution.calls import Calls
from services.execution.checks import (
    check_database,
    check_durability,
    check_redis,
    check_spool,
    check_storage,
    wait_until_usable,
)
from services.execution.chores import FALLBACK, VERIFY, Chores
from services.execution.embedded_parts import StartError, start_embedded
from services.execution.health import HealthService
from services.execution.membership import RARELY, Load, Membership
from services.execution.notices import BEGIN, Notices
from services.execution.schema import migrate_or_wait
from services.execution.wakes import CeleryConsumer, CeleryWakes, Wakes
from services.housekeeping.bucket_guard import POLL_INTERVAL as BUCKET_INTERVAL
from services.housekeeping.bucket_guard import BucketGuard
from services.housekeeping.bucket_marker import BucketMarker
from services.housekeeping.key_guard import POLL_INTERVAL as KEYS_INTERVAL
from services.housekeeping.key_guard import KeyGuard
from services.housekeeping.orphan_sweeper import POLL_INTERVAL as SWEEPER_INTERVAL
from services.housekeeping.orphan_sweeper import OrphanSweeper
from services.housekeeping.retention import Retention
from services.housekeeping.secrets import open_box, put_in_order
from services.idempotency.service import IdempotencyService
from services.live.live_hub import LiveHub
from services.orchestrator import Orchestrator
from services.pairs.service import POLL_INTERVAL as PAIRS_INTERVAL
from services.pairs.service import Pairs
from services.quality.keeper import SAVE_INTERVAL as QUALITY_INTERVAL
from services.quality.keeper import QualityKeeper
from services.reads.jpegs import Jpegs
from services.reads.queries import Queries
from services.reads.serializers.cameras import to_stream_status
from services.reads.thumbnails import Thumbnails
from services.reads.timelines import Timelines
from services.redis.away import RedisAway
from services.rtsp_capture.captures.context import CaptureDeps
from services.rtsp_capture.connection.camera_address import camera_policy
from services.rtsp_capture.connection.dial import tls_context
from services.rtsp_capture.connection.io_loop import IoLoop
from services.rtsp_capture.connection.native_reader import NativeConnector
from services.rtsp_capture.connection.opencv_reader import OpenCvReader
from services.rtsp_capture.connection.own_services import REFRESH_INTERVAL as OWN_INTERVAL
from services.rtsp_capture.connection.own_services import own_services
from services.rtsp_capture.connection.reader import Connector
from services.rtsp_capture.connection.relayed_reader import RelayedConnector
from services.rtsp_capture.connection.rtsp_session import SessionOpener
from services.rtsp_capture.frames.integrity import FrameIntegrity
from services.rtsp_capture.frames.picture_budget import PictureBudget
from services.rtsp_capture.frames.source_checks import SourceChecks
from services.rtsp_capture.streams.keep_open import KeepOpenStreams
from services.rtsp_capture.streams.probe import Prober
from services.rtsp_capture.streams.stream import StreamDeps
from services.rtsp_capture.streams.stream_hub import StreamHub
from services.rtsp_capture.streams.trials import Trials
from services.spool.replay import Replay
from services.spool.spool import Spool
from services.storage_service.service import StorageService
from services.upload_handler.handler import UploadHandler
from services.upload_sessions.sessions import UploadSessions
from services.upload_sessions.staging_sweeper import INTERVAL as STAGING_INTERVAL
from services.upload_sessions.staging_sweeper import StagingSweeper
from utils.camera_series import camera_series
from utils.collector import Collector
from utils.embedded.errors import DataDirLocked
from utils.embedded.lock import DataDirLock
from utils.embedded.running import object_store_ports
from utils.logger import get_logger
from utils.periodic import PeriodicJob
from utils.pool import WorkerPool
from utils.tasks import cancel_all

__all__ = ["Services", "StartError", "open_services"]

if TYPE_CHECKING:
    from services.redis.link import RedisLink

log = get_logger(__name__)


@dataclass(slots=True)
class Services:
    """What the HTTP layer is given."""

    settings: Settings
    store_url: str  # what presigned URLs begin with
    orchestrator: Orchestrator
    queries: Queries
    health: HealthService
    cameras: CameraRegistry
    discovery: Discovery
    latest: LatestPictures
    thumbnails: Thumbnails
    timelines: Timelines
    jpegs: Jpegs
    snapshots: Snapshots
    pairs: Pairs
    bursts: BurstService
    event_log: EventLog
    live: LiveHub
    idempotency: IdempotencyService
    direct: UploadSessions
    access: Access
    api_keys: ApiKeys
    audit_log: AuditLog
    membership: Membership


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Starts everything, yields it, stops it within API__SHUTDOWN_TIMEOUT.

    Raises StartError with a readable reason when a part does not come up.
    """
    async with AsyncExitStack() as stack:
        effective = await start_embedded(settings, stack)
        migrate = partial(migrate_or_wait, effective.DB)
        await wait_until_usable("PostgreSQL (DB__HOST, DB__PORT, DB__USER, DB__PASSWORD)", migrate)
        secrets = open_box(settings)
        database = Database(effective.DB)
        stack.push_async_callback(database.close)
        keys = KeyGuard(database, secrets)
        await keys.poll()
        await check_durability(settings, database)
        redis = await _open_redis(settings, stack)
        access = await Access.open(settings, database, redis)
        access.start()
        stack.push_async_callback(access.stop)
        patience = min(effective.DB.STATEMENT_TIMEOUT, settings.RTSP.LEASE_TTL / 3)
        renewing = effective.DB.direct.model_copy(update={"STATEMENT_TIMEOUT": patience, "POOL_TIMEOUT": patience})
        leases = Database(renewing, "trackshift-leases", dedicated=True)
        stack.push_async_callback(leases.close)
        storage = StorageService(effective.STORAGE)
        stack.push_async_callback(storage.close)
        await wait_until_usable("the object store (STORAGE__ENDPOINT and keys)", storage.ensure_bucket)
        guard = BucketGuard(BucketMarker(database, storage))
        storage.guard_with(guard)
        await wait_until_usable("the bucket's marker (docs/bucket.md)", guard.poll)

        own = own_services(effective, () if settings.STORAGE.ENDPOINT else object_store_ports(settings.DATA_DIR))
        await own.refresh()
        policy = camera_policy(effective, own)
        _check_certificates(settings.RTSP)
        decode_pool = WorkerPool("decode", settings.RTSP.DECODE_THREADS)
        stack.push_async_callback(decode_pool.close)
        io = IoLoop()
        stack.push_async_callback(io.close)
        opener = SessionOpener(settings.RTSP, policy)
        native = NativeConnector(settings.RTSP, io, opener)
        if settings.RTSP.READER == FORMER_READER:
            log.warning("reader_renamed", former=FORMER_READER, used="native")
        opencv = RelayedConnector(settings.RTSP, io, opener, OpenCvReader)
        readers: dict[str, Connector] = {"opencv": opencv, "native": native, FORMER_READER: native}
        trials = Trials(settings.RTSP, decode_pool)
        stack.push_async_callback(trials.close)
        streams = StreamDeps(settings.RTSP, readers[settings.RTSP.READER], decode_pool, readers, trials=trials)
        hub = StreamHub(streams, access.shares)
        stack.push_async_callback(hub.close)
        prober = Prober(streams)
        stack.push_async_callback(prober.close)
        camera_series.most = settings.METRICS.MAX_CAMERAS
        quality = QualityKeeper(settings.QUALITY, database)
        stack.push_async_callback(quality.close)
        uploads = UploadHandler(settings, storage, quality)
        stack.push_async_callback(uploads.close)
        pictures = PictureBudget(settings.RTSP.PICTURE_BUDGET, settings.STORAGE.THREADS)
        spool = await _open_spool(settings, stack)
        replay = Replay(spool, database, storage, lambda: pictures.contended)
        integrity = FrameIntegrity(database, quality)
        checks = SourceChecks(settings.RTSP.SOURCE_CHECK, trials.pool, settings.RTSP.MAX_PIXELS, integrity)
        checks.start()
        stack.push_async_callback(checks.stop)
        capture = CaptureDeps(
            settings.RTSP, database, storage, hub, secrets, pictures, spool, quality, checks=checks, compare_keys=keys.poll
        )

        def load() -> Load:
            streams = {stream.key.camera_id: users for stream, users in hub.streams() if users}
            reported = {} if membership.alone else {name: keeper.stream_of(name) for name in streams}
            shown = {name: to_stream_status(*found).model_dump(mode="json") for name, found in reported.items() if found}
            return Load(orchestrator.runner.captures, len(streams), shown)

        def drain() -> None:
            keeper.drain()
            orchestrator.runner.drain()

        membership = Membership(database, settings.ROLE, settings.WORKERS.SITE, settings.RTSP.LEASE_TTL, load, drain)
        notices = Notices(database, membership)
        calls = Calls(
            database, secrets, membership, notices, lambda request_id: orchestrator.note_finished(request_id),
            lambda: orchestrator.runner.wake(),
        )  # fmt: skip
        wakes = _open_wakes(settings, redis, stack)
        places = CameraPlaces(membership, calls, hub)
        orchestrator = Orchestrator(settings, capture, leases, uploads, policy, access.shares, membership, wakes, calls)
        queries = Queries(database, storage, secrets, access.cursors)
        pairs = Pairs(database, storage, queries, access.cursors, integrity)
        stack.push_async_callback(pairs.close)
        keeper = KeepOpenStreams(
            database,
            hub,
            secrets,
            site=membership.site,
            worker_id=membership.worker_id,
            peers=lambda: membership.peers,
            notified=lambda: membership.notified,
        )
        most_kept = access.shares.most(settings.RTSP.MAX_CONCURRENT_STREAMS)
        refs = StreamRefs(secrets)
        cameras = CameraRegistry(
            database, secrets, policy, keeper, prober, access.cursors, refs, most_kept, places,
            min_retention_days=settings.min_retention_days,
        )  # fmt: skip
        snapshots = Snapshots(capture, orchestrator, queries, places)
        bursts = BurstService(settings.RTSP, database, storage, hub, secrets, orchestrator, places)
        discovery = Discovery(settings.RTSP, database, secrets, policy, refs, places)
        latest = LatestPictures(database, storage, keeper, uploads, integrity, places=places)
        stack.push_async_callback(bursts.close)
        holds = StreamHolds(database, orchestrator.runner, bursts, lambda: calls.heard)
        stack.push_async_callback(holds.close)
        direct = UploadSessions(settings, database, storage, uploads, access.shares)
        stack.callback(direct.stop)
        staging = StagingSweeper(database, storage)
        idempotency = IdempotencyService(settings.API, database, secrets, queries.rendered)
        sweeper = OrphanSweeper(settings.SWEEPER, database, storage, guard)
        retention = Retention(settings.RETENTION, database, storage, guard, min_days=settings.min_retention_days)
        health = HealthService(
            {"database": partial(check_database, database), "storage": partial(check_storage, storage)},
            {
                "spool": partial(check_spool, spool), "bucket": guard.check, "sweeper": sweeper.check,
                "retention": retention.check, "secrets": keys.check,
                "processes": membership.check, "schema": membership.check_schema,
            },
            {} if redis is None else {"redis": partial(check_redis, redis)},
        )  # fmt: skip
        sealing = asyncio.create_task(put_in_order(database, secrets, everything=not settings.DB.HOST), name="secrets")
        stack.push_async_callback(cancel_all, sealing)
        head = LogHead()
        relay = OutboxRelay(database, head, settings.EVENTS.RETENTION, notices)
        relay.start()
        stack.push_async_callback(relay.stop)
        event_log = EventLog(database, head, settings.EVENTS.MAX_READERS)
        live = LiveHub(database, event_log, access, settings.EVENTS.MAX_SOCKETS)
        live.start()
        stack.push_async_callback(live.stop)
        await replay.restore_grids()
        replay.start()
        stack.push_async_callback(replay.stop)
        staging_interval = max(1.0, min(STAGING_INTERVAL, settings.UPLOAD.SESSION_TTL / 4))
        answers, captures = settings.ROLE is not Role.WORKER, settings.ROLE is not Role.API
        jobs = [
            PeriodicJob("own-services", own.refresh, OWN_INTERVAL, at_start=False),
            PeriodicJob("bucket", guard.poll, BUCKET_INTERVAL, at_start=False),
            PeriodicJob("secret-keys", keys.poll, KEYS_INTERVAL, at_start=False),
            PeriodicJob("health", health.check, settings.API.HEALTH_INTERVAL),
        ]
        jobs.append(PeriodicJob("quality", quality.save, QUALITY_INTERVAL, at_start=False, wake=quality.changed))
        if answers:
            pause = lambda: RARELY if membership.notified else PAIRS_INTERVAL  # noqa: E731
            jobs.append(PeriodicJob("pairs", pairs.align_pending, pause, jitter=0.2, wake=pairs.pending))
            membership.when_found(lambda waiting: pairs.pending.set() if waiting.pairs else None)
            jobs += [*idempotency.jobs, PeriodicJob("staging-sweeper", staging.sweep, staging_interval)]
        chores: dict[str, PeriodicJob] = {}
        every = {"sweeper": SWEEPER_INTERVAL, "retention": settings.RETENTION.INTERVAL}
        if captures:  # they load a process beside the answers that clients wait for
            rarely = FALLBACK if settings.WORKERS.MODE == "celery" and redis is not None else 1.0
            chores = {
                "sweeper": PeriodicJob("sweeper", sweeper.poll, rarely * every["sweeper"], jitter=0.2),
                "retention": PeriodicJob("retention", retention.poll, rarely * every["retention"]),
            }
            jobs += chores.values()
        for job in jobs:
            job.start()
            stack.push_async_callback(job.stop)
        await membership.open()
        stack.push_async_callback(membership.close)
        if captures:
            calls.serve(
                {
                    "picture": snapshots.picture_for_another, "latest": latest.latest_for_another,
                    "probe": cameras.probe_for_another, "discover": discovery.discover_for_another,
                    "hold": holds.hold, "begin": holds.begin, "release": holds.release,
                }
            )  # fmt: skip
            calls.on_notice(BEGIN, holds.written)
        calls.start()
        stack.push_async_callback(calls.stop)
        notices.start()
        stack.push_async_callback(notices.stop)
        if captures:
            membership.when_found(lambda waiting: keeper.found() if waiting.kept else None)
            keeper.start()
        stack.push_async_callback(keeper.stop)
        orchestrator.start()
        stack.push_async_callback(orchestrator.stop, settings.API.SHUTDOWN_TIMEOUT / 2)
        membership.on_change = orchestrator.runner.wake
        if captures:
            _hear_wakes(settings, orchestrator.runner.wake, stack)
            if redis is not None:
                every[VERIFY] = settings.SWEEPER.INTERVAL
                _open_chores(settings, database, storage, redis, chores, every, stack)
        log.info(
            "started", environment=settings.ENVIRONMENT.value, role=settings.ROLE.value, site=settings.WORKERS.SITE,
            worker_id=str(membership.worker_id), data_dir=str(settings.DATA_DIR),
            database="embedded" if not settings.DB.HOST else settings.DB.HOST,
            storage="embedded" if not settings.STORAGE.ENDPOINT else settings.STORAGE.ENDPOINT,
        )  # fmt: skip
        collector = Collector()
        collector.start()
        if answers:
            uploads.warm()
        else:
            trials.warm()  # what it takes over from a worker that has died waits for one thing less
        stack.callback(collector.stop)
        yield Services(
            settings=settings,
            store_url=storage.public_url,
            orchestrator=orchestrator,
            queries=queries,
            health=health,
            cameras=cameras,
            discovery=discovery,
            latest=latest,
            timelines=Timelines(database, access.cursors),
            thumbnails=Thumbnails(database, storage, uploads, integrity),
            jpegs=Jpegs(database, storage, uploads, integrity),
            snapshots=snapshots,
            pairs=pairs,
            bursts=bursts,
            event_log=event_log,
            live=live,
            idempotency=idempotency,
            direct=direct,
            access=access,
            api_keys=ApiKeys(database, access.cursors),
            audit_log=AuditLog(database, access.cursors),
            membership=membership,
        )
        health.stopping = True


def _open_wakes(settings: Settings, redis: RedisLink | None, stack: AsyncExitStack) -> Wakes:
    """What tells other processes of new captures."""
    if settings.WORKERS.MODE != "celery" or redis is None:
        return Wakes()
    from services.execution import celery_app

    made = CeleryWakes(redis, celery_app.post, time.monotonic)
    stack.push_async_callback(made.close)
    return made


def _open_chores(
    settings: Settings, database: Database, storage: StorageService, redis: RedisLink, jobs: dict[str, PeriodicJob],
    every: dict[str, float], stack: AsyncExitStack,
) -> None:  # fmt: skip
    """With WORKERS__MODE=celery, housekeeping is posted and taken by messages."""
    if settings.WORKERS.MODE != "celery":
        return
    from services.execution import celery_app

    loop = asyncio.get_running_loop()
    chores = Chores(database, storage, redis, celery_app.post_chore, jobs, every, settings.SWEEPER.VERIFY_SAMPLE)

    def woken(kind: str, sample: int) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(chores.woken, kind, sample)

    celery_app.on_chore(woken)
    stack.callback(celery_app.on_chore, None)
    chores.start()
    stack.push_async_callback(chores.stop)


def _hear_wakes(settings: Settings, wake: Callable[[], None], stack: AsyncExitStack) -> None:
    """With WORKERS__MODE=celery, messages to this site's queue call `wake` on the event loop."""
    if settings.WORKERS.MODE != "celery":
        return
    from services.execution import celery_app

    loop = asyncio.get_running_loop()

    def woken() -> None:
        with suppress(RuntimeError):  # the loop is closed: nothing is claimed any more
            loop.call_soon_threadsafe(wake)

    celery_app.on_wake(woken)
    stack.callback(celery_app.on_wake, None)
    if not celery_app.hosted:
        consumer = CeleryConsumer()
        consumer.start()
        stack.push_async_callback(consumer.stop)


async def _open_redis(settings: Settings, stack: AsyncExitStack) -> RedisLink | None:
    """The Redis that the settings name; one that is away holds no start up."""
    if not settings.REDIS.HOST:
        return None
    from services.redis.link import RedisLink  # late: 0.1 s of CPU, and most processes have no Redis

    redis = RedisLink(settings.REDIS)
    stack.push_async_callback(redis.close)
    with suppress(RedisAway):
        await redis.check()
    return redis


def _check_certificates(settings: RtspSettings) -> None:
    """Raises StartError."""
    if settings.TLS_CA_FILE is None:
        return
    try:
        tls_context(settings.TLS_VERIFY, settings.TLS_CA_FILE)
    except OSError as error:  # ssl.SSLError is one
        raise StartError("RTSP__TLS_CA_FILE cannot be read as PEM certificates.") from error


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
