"""Claims captures by lease and epoch, runs them, renews their leases, hands them back.

The truth is in PostgreSQL (leases); this process only knows what it runs. Everything here runs on the event loop but
the watch's thread (`lease_watch`), which a stalled loop does not stall. Lifecycle of a capture: docs/lifecycle.md.

Longer than 250 lines: what is claimed, renewed and triggered is one table, the captures that run here.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from structlog.contextvars import bind_contextvars, clear_contextvars

from models.values import Claim
from repositories.database import Database, UnitOfWork
from repositories.heartbeats import Waiting
from repositories.leases import ProcessShares
from services.access.shares import Shares
from services.execution.lease_watch import LeaseWatch
from services.execution.membership import HEARTBEAT_INTERVAL, RARELY, Membership
from services.rtsp_capture.captures.context import CaptureDeps
from services.rtsp_capture.captures.job import CaptureJob
from utils.exceptions import DatabaseUnavailable, LeaseLost
from utils.logger import get_logger
from utils.metrics import CAPTURES, CAPTURES_RESUMED, LEASE_RENEWAL, LEASES_LOST
from utils.periodic import PeriodicJob
from utils.tasks import cancel_all

log = get_logger(__name__)

CLAIM_INTERVAL = 0.5  # seconds between polls for captures that nobody runs, while there are some or nobody tells of them
LAPSED_FOR = 0.02  # seconds after the end of another process's lease that it is looked for
CLAIM_INTERVAL_MAX = 2.0  # the same where a poll takes long
CANCELLED_BATCH = 20  # captures taken only to be ended, in one poll
RENEW_RETRY_INTERVAL = 0.2  # seconds until leases that could not be renewed are tried again
TRIGGER_POLL_INTERVAL = 0.5  # seconds between polls for triggers that other processes took
TRIGGER_BATCH = 1000
SETTLING_SECONDS = 15.0  # after which a resumed capture does not end its process any more


@dataclass(slots=True)
class _Running:
    job: CaptureJob
    task: asyncio.Task[None]
    camera_id: str
    principal: str | None  # whose capture it is
    began: float  # by the watch's clock
    handed_back: bool = False  # its lease is anybody's; the last pictures are being stored


def _wake_from_thread(loop: asyncio.AbstractEventLoop, job: CaptureJob) -> None:
    try:
        loop.call_soon_threadsafe(job.wake)
    except RuntimeError:  # the loop is closed: nothing runs any more
        pass


class CaptureRunner:
    """One a process. `start` begins to claim, `stop` hands back."""

    def __init__(
        self, deps: CaptureDeps, leases: Database, on_finished: Callable[[UUID], None], shares: Shares,
        watch: LeaseWatch | None = None, *, membership: Membership,
    ) -> None:  # fmt: skip
        """`leases`: a dedicated connection for renewals. `on_finished`: a capture ended here, was handed back or lost.
        `shares`: what one principal may have running. `membership`: this process among the others, which
        says whose captures it claims, and how much of them is its share."""
        self._shares = shares
        self._deps = deps
        self._settings = deps.settings
        self._database = deps.database
        self._leases = leases
        self._on_finished = on_finished
        self._watch = watch or LeaseWatch(deps.settings.LEASE_TTL)
        self.owner = membership.owner
        self._membership = membership
        self._draining = False
        self._running: dict[UUID, _Running] = {}
        self._claim_seconds = (0.0, 0.0)  # that the last two polls took
        self._unheld = True  # whether the last poll found captures that nobody runs
        self._lapse: asyncio.TimerHandle | None = None  # claims when the next lease has lapsed
        membership.when_found(self._found)
        self._renew_failures = 0  # tries since all leases were renewed
        self._claiming = PeriodicJob("capture-claim", self._claim_all, self._claim_pause, jitter=0.1)
        self._renewing = PeriodicJob("lease-renewal", self._renew_all, self._renew_pause)
        self._triggers = PeriodicJob("trigger-poll", self._poll_triggers, self._trigger_pause, at_start=False)

    # -- what runs ---------------------------------------------------------------------------------------------

    @property
    def captures(self) -> int:
        """How many captures run here."""
        return len(self._running)

    @property
    def room(self) -> int:
        """How many more captures may run here."""
        return max(0, self._settings.MAX_CONCURRENT_CAPTURES - len(self._running))

    def may_run(self, principal: str | None, more: int) -> bool:
        """Whether a principal may have so many more captures run here; who has none may."""
        held = sum(1 for running in self._running.values() if running.principal == principal)
        within = held + more <= self._shares.most(self._settings.MAX_CONCURRENT_CAPTURES)
        return principal is None or not self._shares.limited or not held or within

    def job(self, request_id: UUID) -> CaptureJob | None:
        """The capture, if this process runs it."""
        running = self._running.get(request_id)
        return running.job if running is not None else None

    def wake(self) -> None:
        """There may be something to claim."""
        self._claiming.wake()

    def now(self) -> float:
        """Seconds of the clock that leases are watched by: to be read before a claim is committed."""
        return self._watch.clock()

    def begin(self, claim: Claim, camera_id: str, principal: str | None, asked: float) -> None:
        """Runs a principal's capture whose lease is this process's by a statement that was sent at `asked` (of `now`)."""
        former = self._running.pop(claim.request_id, None)
        if former is not None:  # our own lease had lapsed while the database was away
            self._lose(former.job)
        if claim.resumed:
            CAPTURES_RESUMED.inc()
        job = CaptureJob(claim, self._deps, partial(self._watch.may_act, claim), partial(self._handed_back, claim))
        self._watch.hold(claim, asked, partial(_wake_from_thread, asyncio.get_running_loop(), job))
        task = asyncio.create_task(self._guard(job, camera_id), name=f"capture-{claim.request_id}")
        self._running[claim.request_id] = _Running(job, task, camera_id, principal, self.now())
        if len(self._running) == 1:
            self._renewing.wake()  # both wait for the first lease
            self._triggers.wake()
        CAPTURES.labels(state="running").set(len(self._running))

    async def _guard(self, job: CaptureJob, camera_id: str) -> None:
        """Runs a job; whatever ends it, the process no longer counts it as its own."""
        request_id = job.claim.request_id
        clear_contextvars()
        bind_contextvars(ingestion_id=str(request_id), camera_id=camera_id)
        try:
            await job.run()
        except LeaseLost:
            LEASES_LOST.inc()
            log.warning("capture_lost", reason="another process has it, or it is final")
        except asyncio.CancelledError:
            raise
        except Exception:
            # The lease lapses and somebody, perhaps this process, goes on with the capture.
            log.exception("capture_failed")
        finally:
            self._watch.release(job.claim)
            running = self._running.get(request_id)
            if running is not None and running.job is job:
                del self._running[request_id]
            CAPTURES.labels(state="running").set(len(self._running))
            self._on_finished(request_id)
            self._claiming.wake()

    def _handed_back(self, claim: Claim) -> None:
        self._watch.release(claim)
        running = self._running.get(claim.request_id)
        if running is not None and running.job.claim is claim:
            running.handed_back = True
        self._on_finished(claim.request_id)

    def _lose(self, job: CaptureJob) -> None:
        log.warning("lease_lost", ingestion_id=str(job.claim.request_id), epoch=job.claim.epoch)
        self._watch.release(job.claim)
        job.lose()

    # -- start and stop ----------------------------------------------------------------------------------------

    def start(self, *, claims: bool = True) -> None:
        """`claims`: whether this process takes captures that nobody runs."""
        self._watch.start()
        for job in (self._claiming, self._renewing, self._triggers) if claims else (self._renewing, self._triggers):
            job.start()

    def drain(self) -> None:
        """Takes no more captures, and hands over those that run here."""
        self._draining = True
        for running in self._running.values():
            running.job.hand_back()

    async def stop(self, timeout: float) -> None:
        """Takes no more work, stores pending frames, hands captures back; at most `timeout` seconds."""
        if self._lapse is not None:
            self._lapse.cancel()
        await self._claiming.stop()
        await self._triggers.stop()
        for running in self._running.values():
            running.job.hand_back()
        tasks = [running.task for running in self._running.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            await cancel_all(*late)
        await self._renewing.stop()  # last: leases are kept until they are handed back
        self._watch.stop()

    # -- claiming ----------------------------------------------------------------------------------------------

    async def _claim_all(self) -> None:
        if self._deps.secrets.missing or self._draining or not self._membership.captures_here:
            return  # without its keys it could not open the cameras of what it would claim
        began = self.now()
        try:
            self._unheld = await self._database.hot.any_unheld()
            if not self._unheld:
                return  # nearly every poll of an idle process: one statement instead of three transactions
            await self._end_cancelled()
            await self._claim()
        finally:
            self._claim_seconds = (self._claim_seconds[1], self.now() - began)

    def _claim_pause(self) -> float:
        """Thousands of waiting captures make a poll expensive: it may take a tenth of the time.

        One slow poll, such as the first, which connects, is no sign of that. What comes is told, or found by a heartbeat.
        """
        if not self._unheld and self._membership.notified:
            return RARELY
        return max(CLAIM_INTERVAL, min(CLAIM_INTERVAL_MAX, 9 * min(self._claim_seconds)))

    def _found(self, waiting: Waiting) -> None:
        """What a heartbeat found: captures that wait, or leases that end before the next one, should nobody renew them."""
        if self._lapse is not None:
            self._lapse.cancel()
            self._lapse = None
        if self._unheld:
            return  # it polls
        if waiting.captures:
            self._claiming.wake()
        elif waiting.lapse_in is not None and waiting.lapse_in < HEARTBEAT_INTERVAL:
            after = waiting.lapse_in + LAPSED_FOR
            self._lapse = asyncio.get_running_loop().call_later(after, self._claiming.wake)

    async def _claim(self) -> None:
        if not (room := self.room):
            return
        kept = {stream.key.camera_id: 0 for stream, users in self._deps.hub.streams() if users}
        running = kept | Counter(each.camera_id for each in self._running.values())
        new_cameras = max(0, self._settings.MAX_CONCURRENT_STREAMS - len(running))
        ttl = self._settings.LEASE_TTL
        shares = self._process_shares() if self._shares.limited else None
        await self._take(
            lambda uow: uow.leases.claim(
                self.owner,
                ttl,
                room,
                running,
                new_cameras,
                shares,
                doubtful=False,
                site=self._membership.site,
                peers=self._membership.peers,
                worker_id=self._membership.worker_id,
            )
        )
        if self.room and self._settled:
            cameras = [*running, *(each.camera_id for each in self._running.values())]
            new_cameras = self._settings.MAX_CONCURRENT_STREAMS - len(set(cameras))
            site = self._membership.site
            await self._take(lambda uow: uow.leases.claim_doubtful(self.owner, ttl, cameras, new_cameras, site))

    @property
    def _settled(self) -> bool:
        """Whether every capture that was taken over here has got so far that a crash would not be held against it.

        A capture that may have killed its former owner is begun alone: what dies with it again is then known.
        """
        now = self.now()
        return all(
            each.job.progressed or not each.job.claim.resumed or now - each.began > SETTLING_SECONDS
            for each in self._running.values()
        )

    def _process_shares(self) -> ProcessShares:
        """What principals may hold of this process, and hold now."""
        users: dict[str, set[str | None]] = defaultdict(set)  # of each camera's streams; open, or waited for
        for camera_id, owners in self._deps.hub.owners():
            users[camera_id] |= owners
        for each in self._running.values():
            users[each.camera_id].add(each.principal)
        captures = Counter(each.principal for each in self._running.values())
        alone = Counter(next(iter(owners)) for owners in users.values() if len(owners) == 1)
        kept = sum(1 for owners in users.values() if None in owners)
        return ProcessShares(
            self._shares.most(self._settings.MAX_CONCURRENT_CAPTURES),
            self._shares.most(self._settings.MAX_CONCURRENT_STREAMS - kept),
            {name: (captures[name], alone[name]) for name in captures.keys() | alone.keys() if name is not None},
        )

    async def _end_cancelled(self) -> None:
        """The reconciler: a cancel whose owner is gone needs neither room nor a stream, so every process ends it."""
        ttl = self._settings.LEASE_TTL
        for claim in await self._take(lambda uow: uow.leases.take_cancelled(self.owner, ttl, CANCELLED_BATCH)):
            log.info("cancelled_ownerless", ingestion_id=str(claim.request_id), epoch=claim.epoch)

    async def _take(self, take: Callable[[UnitOfWork], Awaitable[list[Claim]]]) -> list[Claim]:
        """Claims and begins captures; those whose leases were deleted in between are left out."""
        asked = self.now()
        async with self._database.one_statement(events=False) as uow:
            claims = await take(uow)
            leases = await uow.leases.of_claims(claims)
        begun = [claim for claim in claims if claim.request_id in leases]
        for claim in begun:
            lease = leases[claim.request_id]
            self.begin(claim, lease.camera_id, lease.principal, asked)
        return begun

    # -- renewing ----------------------------------------------------------------------------------------------

    async def _renew_all(self) -> None:
        """Renews all leases. One connection is kept for this; every other try after a failure uses the pool."""
        if not self._running:
            return
        began, failures = self.now(), self._renew_failures
        self._renew_failures = failures + 1
        try:
            async with asyncio.timeout(self._settings.LEASE_TTL / 3):
                if await self._renew(self._leases if failures % 2 == 0 else self._database):
                    self._renew_failures = 0
        except TimeoutError:
            raise DatabaseUnavailable from None  # the watch reports leases that end
        finally:
            LEASE_RENEWAL.observe(self.now() - began)

    def _renew_pause(self) -> float:
        if not self._running:
            return math.inf  # `begin` wakes it
        return RENEW_RETRY_INTERVAL if self._renew_failures else self._settings.LEASE_TTL / 3

    async def _renew(self, database: Database) -> bool:
        """Whether every lease was renewed, or is known to be lost."""
        claims = [running.job.claim for running in self._running.values() if not running.handed_back]
        asked = self.now()
        async with database.one_statement(events=False) as uow:
            renewed = await uow.leases.renew(self.owner, self._settings.LEASE_TTL, claims)
        for claim in claims:
            running = self._running.get(claim.request_id)
            if running is None or running.job.claim is not claim or running.handed_back:
                continue
            job = running.job
            if claim.request_id in renewed.cancelled:
                job.cancel()
            if claim.request_id in renewed.ours:
                if self._watch.renewed(claim, asked):
                    log.warning("lease_regained", ingestion_id=str(claim.request_id), epoch=claim.epoch)
                    job.wake()
            elif claim.request_id not in renewed.busy:
                self._lose(job)
        return not renewed.busy

    # -- triggers ----------------------------------------------------------------------------------------------

    def _trigger_pause(self) -> float:
        return TRIGGER_POLL_INTERVAL if self._running else math.inf  # `begin` wakes it

    async def _poll_triggers(self) -> None:
        """Reads triggers that other processes took, for all captures of this process in one query."""
        since = {
            request_id: known for request_id, running in self._running.items()
            if (known := running.job.triggers_since) is not None
        }  # fmt: skip
        if not since:
            return
        async with self._database.one_statement(events=False) as uow:
            rows = await uow.events.triggers(since, TRIGGER_BATCH)
        for row in rows:
            if (job := self.job(row.request_id)) is not None:
                job.trigger(row)
