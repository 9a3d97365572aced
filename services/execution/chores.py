"""Housekeeping by Celery's messages (WORKERS__MODE=celery): retention, sweeper and verification have a queue of their own.

One process of all posts them, whoever holds an advisory lock; any worker takes one and looks whether there is something to
do, instead of all workers looking all the time. A message is a hint, as those of captures: who works is decided by the lock
of the work itself, what is due by the database, and every worker still looks by itself, only FALLBACK times as rarely. So
one that comes twice, late or never changes nothing. On the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from repositories.database import Database
from services.housekeeping.verifier import Verifier, Wanted
from services.redis.away import RedisAway
from services.storage_service.service import StorageService
from utils.exceptions import DatabaseUnavailable
from utils.logger import get_logger
from utils.metrics import INTEGRITY_VIOLATIONS, WAKES_SENT
from utils.periodic import PeriodicJob
from utils.pool import WorkerPool
from utils.tasks import cancel_all

if TYPE_CHECKING:
    from services.redis.link import RedisLink

log = get_logger(__name__)

QUEUE = "housekeeping"
POSTER_LOCK = 0x706F7374  # any constant: who posts
VERIFY_LOCK = 0x76657269  # any constant: who verifies
FALLBACK = 6.0  # times the interval of a job, without a message
MAX_QUEUED = 20  # messages that wait: nobody consumes
POSTER_INTERVAL = 5.0  # seconds between two looks whether nobody posts
SHORTEST = 1.0  # seconds between two rounds of the poster
VERIFY = "verify"


class Chores:
    """One a worker process. `jobs` by the kind of their messages."""

    def __init__(
        self, database: Database, storage: StorageService, redis: RedisLink, send: Callable[[str, int], None],
        jobs: Mapping[str, PeriodicJob], intervals: Mapping[str, float], sample: int,
    ) -> None:  # fmt: skip
        """`send(kind, sample)` blocks. `intervals`: seconds between two messages of a kind, `verify` among them. `sample`:
        frames of a verification; 0: none is posted."""
        self._database, self._storage, self._redis, self._send = database, storage, redis, send
        self._jobs, self._sample = jobs, sample
        self._intervals = {kind: each for kind, each in intervals.items() if kind != VERIFY or sample}
        self._pool = WorkerPool("housekeeping-wakes", 1)
        self._verifying: asyncio.Task[None] | None = None
        self._job = PeriodicJob("housekeeping-poster", self._post_while_ours, POSTER_INTERVAL, jitter=0.2)

    def start(self) -> None:
        self._job.start()

    async def stop(self) -> None:
        await self._job.stop()
        if self._verifying is not None:
            await cancel_all(self._verifying)
        await self._pool.close()

    # -- posting -----------------------------------------------------------------------------------------------

    async def _post_while_ours(self) -> None:
        """Posts until the lock's connection is lost; returns at once where another process has it."""
        clock = asyncio.get_running_loop().time
        async with self._database.exclusive(POSTER_LOCK) as lock:
            if lock is None:
                return
            due = {kind: clock() + (seconds / 2 if kind == VERIFY else 0) for kind, seconds in self._intervals.items()}
            while True:
                await lock.check()
                for kind, at in due.items():
                    if at <= clock():
                        due[kind] = clock() + self._intervals[kind]
                        await self._post(kind)
                await asyncio.sleep(max(SHORTEST, min(due.values()) - clock()))

    async def _post(self, kind: str) -> None:
        outcome = "sent"
        try:
            if await self._redis.queued(QUEUE) >= MAX_QUEUED:
                outcome = "dropped"
            else:
                await self._pool.run(self._send, kind, self._sample if kind == VERIFY else 0)
        except RedisAway:
            outcome = "away"
        except Exception as error:  # whatever kombu and its transport make of a broker that is sick
            outcome = "failed"
            log.warning("housekeeping_not_posted", error=type(error).__name__)
        WAKES_SENT.labels(outcome=outcome).inc()

    # -- what a message does -------------------------------------------------------------------------------------

    def woken(self, kind: str, sample: int) -> None:
        """A message came; one of an unknown kind is of another version."""
        if (job := self._jobs.get(kind)) is not None:
            job.wake()
        elif kind == VERIFY and sample > 0 and (self._verifying is None or self._verifying.done()):
            self._verifying = asyncio.create_task(self._verify(sample), name="verify")

    async def _verify(self, sample: int) -> None:
        """Reads the bytes of so many frames, chosen at random; nothing is changed."""
        try:
            async with self._database.exclusive(VERIFY_LOCK) as lock:
                if lock is None:
                    return
                report = await Verifier(self._database, self._storage, Wanted(sample=sample)).run(0)
        except DatabaseUnavailable:
            return
        except Exception:
            log.exception("verify_failed")
            return
        for found in report.violations:
            INTEGRITY_VIOLATIONS.labels(kind=found["kind"]).inc()
            log.error("integrity_violation", kind=found["kind"], frame_id=found["frame_id"])
        tell = partial(log.error if report.exit_code else log.info, "verified")
        tell(
            checked=report.checked, ok=report.ok, missing=report.missing, mismatched=report.mismatched,
            seconds=report.seconds, failed=report.error,
        )  # fmt: skip
