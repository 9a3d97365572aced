"""How long frames are kept: the policy's days or the camera's own, the policy's bytes, never a frame on hold.

A frame's age counts from `stored_at`, the database's clock at its commit, never from its capture time, which a client
may have set to anything (docs/rules.md, rule 10). A frame goes as a client's delete lets it go: stored, deleting, deleted;
state, hold and age are checked again by the UPDATE that begins it. What was cut off, a client's delete too, is finished
first.

Of a camera's frames no more than the policy's share goes in a day: what a mistaken or a stranger's setting would delete in
a minute takes days, with an alarm.

Bytes: a trigger appends each frame's coming and going to `storage_changes`, and this adds them to a total. One total
that every transaction updates would make them wait for each other; summing up `frames` would read all of it.

One process at a time (an advisory lock). On the event loop.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from uuid import UUID

from config import RetentionSettings
from repositories.base import Key
from repositories.database import Database, Exclusive
from repositories.frames import Old, Removal
from repositories.retention import Policy
from services.housekeeping.bucket_guard import BucketGuard
from services.housekeeping.object_deletion import delete_objects
from services.housekeeping.retention_policy import differing, in_force
from services.storage_service.service import StorageService
from utils.exceptions import IngestionException, StorageUnavailable
from utils.logger import get_logger
from utils.metrics import RETENTION_CAPPED, RETENTION_DELETED, STORED_BYTES, STORED_FRAMES
from utils.rate_limiter import RateLimiter

log = get_logger(__name__)

LOCK_KEY = 0x72657461  # any constant: who deletes what is too old
BATCH = 200  # frames
DAY = 86_400.0  # seconds
RECOUNT_INTERVAL = 600.0  # seconds between two counts of the frames of a camera that is at its daily share


class Retention:
    """One a process: `poll` is run every RETENTION__INTERVAL."""

    def __init__(
        self,
        settings: RetentionSettings,
        database: Database,
        storage: StorageService,
        guard: BucketGuard,
        *,
        min_days: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`min_days`: no frame goes earlier, whatever a row says; `clock`: seconds that only grow."""
        self._settings = settings
        self._database = database
        self._storage = storage
        self._guard = guard
        self._min_days = min_days
        self._clock = clock
        self._rate = RateLimiter(settings.MAX_DELETES_PER_SECOND)
        self._batch = max(1, min(BATCH, int(settings.MAX_DELETES_PER_SECOND)))
        self._differing: list[str] = []
        self._capped: list[str] = []  # cameras at their daily share
        self._counted: dict[str, float] = {}  # by camera at its share: when its frames were counted

    async def check(self) -> str | None:
        """For /health, from the last poll. Raises IngestionException: it does not do what settings or cameras say."""
        wrong = []
        if self._differing:
            wrong.append(
                f"{', '.join(self._differing)} of this process differ from the database's policy, which counts "
                "(`retention show`, `retention apply`)."
            )
        if self._capped:
            wrong.append(
                f"{len(self._capped)} cameras: more frames are to be deleted today than RETENTION__MAX_SHARE_PER_DAY allows."
            )
        if wrong:
            raise IngestionException(" ".join(wrong))
        return None

    async def poll(self) -> int:
        """Deletes what is too old, then what is too much; returns how many frames.

        Deletes that a client or a former poll began are finished first. 0 when another process holds the lock, or the
        bucket is not this database's. Raises StorageUnavailable, DatabaseUnavailable: what was begun is finished
        by the next poll.
        """
        deleted = 0
        policy = await self._policy()
        async with self._database.exclusive(LOCK_KEY) as lock:
            if lock is not None:
                while await self._database.retry_until_known(lambda uow: uow.usage.fold()):
                    pass
                if await self._guard.deletes():
                    await self._finish(lock)
                    deleted = await self._expire(lock, policy) + await self._shrink(lock, policy)
        await self._report()
        return deleted

    async def _policy(self) -> Policy:
        policy = await in_force(self._database, self._settings)
        found = differing(self._settings, policy)
        if found and found != self._differing:
            log.warning("retention_settings_differ", settings=found, policy=policy._asdict())
        self._differing = found
        return policy

    async def _report(self) -> None:
        async with self._database.one_statement(events=False) as uow:
            usage = await uow.usage.read()
        STORED_BYTES.set(usage.bytes)
        STORED_FRAMES.set(usage.frames)
        async with self._database.one_statement(events=False) as uow:
            capped = await uow.retention.capped()
        for camera_id in sorted(set(capped) - set(self._capped)):
            log.error("retention_capped", camera_id=camera_id, reason="more than RETENTION__MAX_SHARE_PER_DAY in a day")
        self._capped = capped
        self._counted = {camera_id: at for camera_id, at in self._counted.items() if camera_id in capped}
        RETENTION_CAPPED.set(len(capped))

    async def _finish(self, lock: Exclusive) -> None:
        """Deletes that a crash cut off, and those that the store was away for."""
        while True:
            await lock.check()
            async with self._database.one_statement() as uow:
                found = await uow.frames.deleting(limit=self._batch, older_than_s=0)
            # Some may be left that the store will not delete at all: they hold up nothing else.
            if not found or not await delete_objects(self._database, self._storage, found):
                return

    async def _expire(self, lock: Exclusive, policy: Policy) -> int:
        """Camera by camera: each has its own age, and its frames lie side by side in an index."""
        deleted, camera_id = 0, ""
        while True:
            async with self._database.one_statement() as uow:
                found = await uow.frames.next_camera(camera_id)
            if found is None:
                return deleted
            camera_id = found
            async with self._database.one_statement() as uow:
                own = await uow.retention.days_of(camera_id)
            days = own if own is not None else policy.days
            if days is not None:
                deleted += await self._expire_camera(lock, camera_id, max(days, self._min_days) * DAY, policy)

    async def _expire_camera(self, lock: Exclusive, camera_id: str, older_than_s: float, policy: Policy) -> int:
        deleted, after = 0, None
        while True:
            async with self._database.one_statement() as uow:
                old = await uow.frames.oldest(after=after, limit=self._batch, camera_id=camera_id, older_than_s=older_than_s)
            if not old:
                return deleted
            granted = await self._take(camera_id, len(old), policy)
            if granted:
                deleted += await self._delete(lock, old[:granted], "age", older_than_s)
            if granted < len(old):
                return deleted
            after = _place(old[-1])

    async def _shrink(self, lock: Exclusive, policy: Policy) -> int:
        """The oldest of all cameras that are not at their daily share, until what is stored fits."""
        limit, deleted, after = policy.max_bytes, 0, None
        skipped: set[str] = set()
        while limit is not None:
            async with self._database.one_statement() as uow:
                excess = (await uow.usage.read()).bytes - limit
            if excess <= 0:
                break
            async with self._database.one_statement() as uow:
                old = await uow.frames.oldest(after=after, limit=self._batch, but=sorted(skipped))
            if not old:
                reason = "all others are at their daily share" if skipped else "all other frames are on hold"
                log.error("retention_no_room", excess=excess, reason=reason)
                break
            chosen = enough(old, excess)
            by_camera: defaultdict[str, list[Old]] = defaultdict(list)
            for item in chosen:
                by_camera[item.camera_id].append(item)
            for camera_id, frames in by_camera.items():
                granted = await self._take(camera_id, len(frames), policy)
                if granted:
                    deleted += await self._delete(lock, frames[:granted], "bytes", None)
                if granted < len(frames):
                    skipped.add(camera_id)
            after = _place(chosen[-1])
        return deleted

    async def _take(self, camera_id: str, wanted: int, policy: Policy) -> int:
        """How many of so many frames may be deleted today."""
        now = self._clock()
        recount = now - self._counted.get(camera_id, -RECOUNT_INTERVAL) >= RECOUNT_INTERVAL
        granted = await self._database.retry_until_known(
            lambda uow: uow.retention.take(camera_id, wanted, policy.max_share_per_day, recount=recount)
        )
        if granted < wanted and recount:
            self._counted[camera_id] = now
        return granted

    async def _delete(self, lock: Exclusive, old: Sequence[Old], reason: str, older_than_s: float | None) -> int:
        await self._rate.acquire(len(old))
        await lock.check()
        requests: defaultdict[UUID, list[UUID]] = defaultdict(list)
        for item in old:
            requests[item.request_id].append(item.id)
        marked: list[Removal] = []
        for request_id, ids in requests.items():
            marked += await self._database.retry_until_known(
                lambda uow, request_id=request_id, ids=ids: uow.frames.begin_deletes(request_id, ids, older_than_s)  # type: ignore[misc]
            )
        RETENTION_DELETED.labels(reason=reason).inc(len(marked))
        if marked:
            log.info("retention_deleting", frames=len(marked), reason=reason)
            if not await delete_objects(self._database, self._storage, marked):
                raise StorageUnavailable("The object store deletes nothing.")  # no more is begun meanwhile
        return len(marked)


def enough(old: Sequence[Old], excess: int) -> list[Old]:
    """So many of the first that their bytes are `excess`; all when they are fewer."""
    chosen: list[Old] = []
    for item in old:
        if excess <= 0:
            break
        chosen.append(item)
        excess -= item.size_bytes
    return chosen


def _place(item: Old) -> Key:
    return item.stored_at, item.id
