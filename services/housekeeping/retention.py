"""How long frames are kept: RETENTION__DAYS or the camera's own, RETENTION__MAX_BYTES, never a frame on hold.

A frame's age counts from `stored_at`, the database's clock at its commit, never from its capture time, which a client
may have set to anything (docs/rules.md, rule 10). A frame goes as a client's delete lets it go: stored, deleting, deleted;
state, hold and age are checked again by the UPDATE that begins it. What was cut off, a client's delete too, is finished
first.

Bytes: a trigger appends each frame's coming and going to `storage_changes`, and this adds them to a total. One total
that every transaction updates would make them wait for each other; summing up `frames` would read all of it.

One process at a time (an advisory lock). On the event loop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from config import RetentionSettings
from repositories.base import Key
from repositories.database import Database, Exclusive
from repositories.frames import Old, Removal
from services.housekeeping.bucket_marker import BucketMarker, Ownership
from services.housekeeping.object_deletion import delete_objects
from services.storage_service.service import StorageService
from utils.exceptions import StorageUnavailable
from utils.logger import get_logger
from utils.metrics import RETENTION_DELETED, STORED_BYTES, STORED_FRAMES
from utils.rate_limiter import RateLimiter

log = get_logger(__name__)

LOCK_KEY = 0x72657461  # any constant: who deletes what is too old
BATCH = 200  # frames
DAY = 86_400.0  # seconds


class Retention:
    """One a process: `poll` is run every RETENTION__INTERVAL."""

    def __init__(
        self, settings: RetentionSettings, database: Database, storage: StorageService, marker: BucketMarker
    ) -> None:
        self._settings = settings
        self._database = database
        self._storage = storage
        self._marker = marker
        self._rate = RateLimiter(settings.MAX_DELETES_PER_SECOND)
        self._batch = max(1, min(BATCH, int(settings.MAX_DELETES_PER_SECOND)))

    async def poll(self) -> int:
        """Deletes what is too old, then what is too much; returns how many frames.

        Deletes that a client or a former poll began are finished first. 0 when another process holds the lock, or the
        bucket belongs to another database. Raises StorageUnavailable, DatabaseUnavailable: what was begun is finished
        by the next poll.
        """
        deleted = 0
        async with self._database.exclusive(LOCK_KEY) as lock:
            if lock is not None:
                while await self._database.retry_until_known(lambda uow: uow.usage.fold()):
                    pass
                await self._finish(lock)
                if await self._marker.check() is Ownership.OURS:
                    deleted = await self._expire(lock) + await self._shrink(lock)
        await self._report_usage()
        return deleted

    async def _report_usage(self) -> None:
        async with self._database.one_statement() as uow:
            usage = await uow.usage.read()
        STORED_BYTES.set(usage.bytes)
        STORED_FRAMES.set(usage.frames)

    async def _finish(self, lock: Exclusive) -> None:
        """Deletes that a crash cut off, and those that the store was away for."""
        while True:
            await lock.check()
            async with self._database.one_statement() as uow:
                found = await uow.frames.deleting(limit=self._batch, older_than_s=0)
            # Some may be left that the store will not delete at all: they hold up nothing else.
            if not found or not await delete_objects(self._database, self._storage, found):
                return

    async def _expire(self, lock: Exclusive) -> int:
        """Camera by camera: each has its own age, and its frames lie side by side in an index."""
        deleted, camera_id = 0, ""
        while True:
            async with self._database.one_statement() as uow:
                found = await uow.frames.next_camera(camera_id)
            if found is None:
                return deleted
            camera_id = found
            async with self._database.one_statement() as uow:
                camera = await uow.cameras.get(camera_id)
            days = camera.retention_days if camera is not None and camera.retention_days else self._settings.DAYS
            if days is not None:
                deleted += await self._expire_camera(lock, camera_id, days * DAY)

    async def _expire_camera(self, lock: Exclusive, camera_id: str, older_than_s: float) -> int:
        deleted, after = 0, None
        while True:
            async with self._database.one_statement() as uow:
                old = await uow.frames.oldest(
                    after=after, limit=self._batch, camera_id=camera_id, older_than_s=older_than_s
                )
            if not old:
                return deleted
            deleted += await self._delete(lock, old, "age", older_than_s)
            after = _place(old[-1])

    async def _shrink(self, lock: Exclusive) -> int:
        """The oldest of all cameras, until what is stored fits."""
        limit, deleted, after = self._settings.MAX_BYTES, 0, None
        while limit is not None:
            async with self._database.one_statement() as uow:
                excess = (await uow.usage.read()).bytes - limit
            if excess <= 0:
                break
            async with self._database.one_statement() as uow:
                old = await uow.frames.oldest(after=after, limit=self._batch)
            if not old:
                log.error("retention_no_room", excess=excess, reason="all other frames are on hold")
                break
            chosen = enough(old, excess)
            deleted += await self._delete(lock, chosen, "bytes", None)
            after = _place(chosen[-1])
        return deleted

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
