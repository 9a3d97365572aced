"""Objects without rows are deleted, rows without objects are reported: one pass over the bucket, side by side with the rows.
After it, thumbnails of frames that are gone.

Crashes and failed commits leave such objects: an object is always written before its row (docs/lifecycle.md). A key is
condemned in `object_keys`, committed, before its object goes: a frame's transaction that comes for it later finds it
taken, and its bytes are PUT again under a new one. So nothing is lost however wrong the age of an object is; the grace
time only keeps that from being needed. It need not be longer than frames wait in the spool: what is replayed from
there is PUT under a fresh key. Ages are by the store's own clock: its Date less its LastModified.

One process at a time (an advisory lock), each page committed before the next: a pass that was cut off goes on where it
was, in any process. On the event loop; memory is one page of the listing and one of rows.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

from config import SweeperSettings
from repositories.database import Database, Exclusive
from repositories.object_keys import KeyedRow, PassState
from services.housekeeping.bucket_guard import BucketGuard
from services.housekeeping.bucket_marker import Ownership
from services.housekeeping.bucket_walk import ComparedBatch, Window, age, compare, windows
from services.housekeeping.orphan_share import Limits, OrphanPlaces
from services.housekeeping.thumbnail_leftovers import leftovers, pages
from services.storage_service.service import StorageService
from utils.exceptions import IngestionException, StorageUnavailable
from utils.logger import get_logger
from utils.metrics import INTEGRITY_OPEN, INTEGRITY_VIOLATIONS, SWEEPER_ALARM, SWEEPER_LAST_PASS, SWEPT
from utils.rate_limiter import RateLimiter

log = get_logger(__name__)

LOCK_KEY = 0x73776565  # any constant: who sweeps
POLL_INTERVAL = 10.0  # seconds between polls whether a pass is due, and of what is wrong
DELETE_BATCH = 1000
CONFIRM_CONCURRENCY = 8  # HEADs
CONFIRM_BATCH = 1000
FORGET_AFTER = 30 * 86_400.0  # seconds that a condemned key is remembered: no PUT is under way for so long
FORGET_BATCH = 10_000
COUNT_TO = 10_000  # violations are counted no further


class OrphanSweeper:
    """One a process: `poll` is run every POLL_INTERVAL."""

    def __init__(self, settings: SweeperSettings, database: Database, storage: StorageService, guard: BucketGuard) -> None:
        self._settings = settings
        self._database = database
        self._storage = storage
        self._guard = guard
        self._limits = Limits(settings.MIN_ORPHANS, settings.MAX_ORPHAN_SHARE)
        self._list_rate = RateLimiter(settings.MAX_OBJECTS_PER_SECOND)
        self._delete_rate = RateLimiter(settings.MAX_DELETES_PER_SECOND)
        self._stopped = False  # the last pass, by whichever process, found too many orphans
        self._held = 0  # orphans that it left, of folders and days with too many
        self._violations: dict[str, int] = {}

    async def check(self) -> str | None:
        """For /health: what is wrong, as an IngestionException; from the last poll, without a query."""
        wrong = []
        if self._stopped:
            wrong.append("Too many objects without rows (SWEEPER__MAX_ORPHAN_SHARE): nothing more is swept.")
        if self._held:
            wrong.append(
                f"{self._held} objects without rows are not swept: too many of their folder or day "
                "(SWEEPER__MAX_ORPHAN_SHARE; the log's sweeper_place_held names them)."
            )
        wrong += [f"{count} frames: object {kind}." for kind, count in sorted(self._violations.items())]
        if wrong:
            raise IngestionException(" ".join(wrong))
        return None

    async def poll(self) -> None:
        """Reads what was found wrong; makes the pass, or its rest, when one is due and the bucket is this database's.

        Raises StorageUnavailable, DatabaseUnavailable.
        """
        async with self._database.one_statement(events=False) as uow:
            state = await uow.object_keys.pass_state(self._settings.INTERVAL)
        async with self._database.one_statement(events=False) as uow:
            self._violations = await uow.object_keys.violations(COUNT_TO)
        for kind in ("missing", "size"):
            INTEGRITY_OPEN.labels(kind=kind).set(self._violations.get(kind, 0))
        self._note_stopped(state)
        if state.finished_at is not None:
            SWEEPER_LAST_PASS.set(state.finished_at.timestamp())
        if state.due:
            await self.sweep()

    async def sweep(self) -> bool:
        """Makes a pass, or the rest of one that was cut off; False when another process does, or the bucket is not ours.

        Raises StorageUnavailable, DatabaseUnavailable: the pass goes on later from where it was.
        """
        async with self._database.exclusive(LOCK_KEY) as lock:
            if lock is None or not await self._guard.deletes():
                return False
            state = await self._state()
            if not state.in_progress:
                await self._database.retry_until_known(lambda uow: uow.object_keys.begin_pass())
                state = await self._state()
            await self._pass(lock, state)
        return True

    async def _state(self) -> PassState:
        async with self._database.one_statement() as uow:
            return await uow.object_keys.pass_state(self._settings.INTERVAL)

    async def _pass(self, lock: Exclusive, state: PassState) -> None:
        async with aclosing(windows(self._database, self._storage, state.cursor)) as walk:
            async for window in walk:
                await lock.check()
                await self._list_rate.acquire(1 + len(window.objects))
                state = await self._sweep_window(window, state)
        if not state.stopped:
            await self._sweep_thumbnails(lock)
        async with self._database.unit_of_work() as uow:
            await uow.object_keys.clear_gone()
            await uow.object_keys.forget(max(FORGET_AFTER, 2 * self._settings.GRACE), FORGET_BATCH)
            await uow.object_keys.end_pass()
        self._note_stopped(state)
        log.info("sweeper_passed", seen=state.seen, orphans=state.orphans, stopped=state.stopped, held=self._held)

    async def _sweep_window(self, window: Window, state: PassState) -> PassState:
        """Does what is to be done in one window; how far the pass has come with it."""
        found = await compare(self._database, window)
        SWEPT.labels(outcome="seen").inc(found.seen)
        old = [item.key for item in found.orphans if age(item) > self._settings.GRACE]
        before = OrphanPlaces.read(state.places)
        places = before.with_window(window.upto, found.seen, len(old), self._limits)
        state = replace(
            state, cursor=window.upto, seen=state.seen + found.seen, orphans=state.orphans + len(old),
            places=places.to_json(),
        )  # fmt: skip
        for kind, was, tally in (("folder", before.folder, places.folder), ("day", before.day, places.day)):
            if tally.stopped and not (was.stopped and was.name == tally.name):
                log.error("sweeper_place_held", kind=kind, place=tally.name, seen=tally.seen, orphans=tally.orphans)
        if not state.stopped and self._limits.exceeded(state.seen, state.orphans):
            state = replace(state, stopped=True)
            log.error("sweeper_stopped", seen=state.seen, orphans=state.orphans, reason="too many orphans")
        self._note_stopped(state)
        if old and not state.stopped and not places.stopped:
            await self._remove(old)
        await self._flag(found)
        await self._database.retry_until_known(lambda uow: uow.object_keys.save_pass(state))
        return state

    async def _sweep_thumbnails(self, lock: Exclusive) -> None:
        """They are made again when they are asked for: no key is condemned, and no share of them is too large."""
        async for page in pages(self._storage):
            await lock.check()
            await self._list_rate.acquire(1 + len(page))
            gone = await leftovers(self._database, page, lambda item: age(item) > self._settings.GRACE)
            size = max(1, min(DELETE_BATCH, int(self._settings.MAX_DELETES_PER_SECOND)))
            for at in range(0, len(gone), size):
                batch = gone[at : at + size]
                await self._delete_rate.acquire(len(batch))
                await self._still_ours()
                left = await self._storage.delete_many(batch)
                SWEPT.labels(outcome="thumbnail").inc(len(batch) - len(left))

    async def _still_ours(self) -> None:
        """Asked again right before: what is deleted from the wrong bucket cannot be brought back."""
        if await self._guard.poll() is not Ownership.OURS:
            raise StorageUnavailable("The bucket is another database's now.")

    async def _remove(self, keys: list[str]) -> None:
        """Condemns, commits, deletes; in batches of what a second allows."""
        size = max(1, min(DELETE_BATCH, int(self._settings.MAX_DELETES_PER_SECOND)))
        for at in range(0, len(keys), size):
            batch = keys[at : at + size]
            await self._delete_rate.acquire(len(batch))
            await self._still_ours()
            condemned = await self._database.retry_until_known(lambda uow, some=batch: uow.object_keys.condemn(some))  # type: ignore[misc]
            if not condemned:
                continue
            SWEPT.labels(outcome="condemned").inc(len(condemned))
            left = await self._storage.delete_many(condemned)
            SWEPT.labels(outcome="failed").inc(len(left))
            SWEPT.labels(outcome="deleted").inc(len(condemned) - len(left))
            log.info("orphans_deleted", objects=len(condemned) - len(left), left=len(left), first=condemned[0])

    async def _flag(self, found: ComparedBatch) -> None:
        """Flags the frames whose object is really not as it should be; takes the flag from those that are well."""
        if found.healed:
            ids = [row.id for row in found.healed]
            await self._database.retry_until_known(lambda uow: uow.object_keys.clear(ids))
        room = asyncio.Semaphore(CONFIRM_CONCURRENCY)

        async def confirmed(row: KeyedRow) -> None:
            async with room:
                await self._confirm(row)

        for at in range(0, len(found.suspects), CONFIRM_BATCH):
            async with asyncio.TaskGroup() as group:
                for row in found.suspects[at : at + CONFIRM_BATCH]:
                    group.create_task(confirmed(row))

    async def _confirm(self, row: KeyedRow) -> None:
        """The store is asked for this very object, and then the row once more: it may have been deleted meanwhile."""
        head = await self._storage.head(row.key)
        if head is not None and head.size == row.size_bytes:
            return
        kind, size = ("missing", None) if head is None else ("size", head.size)
        if await self._database.retry_until_known(lambda uow: uow.object_keys.flag(row.id, row.key, kind, size)):
            INTEGRITY_VIOLATIONS.labels(kind=kind).inc()
            log.error("integrity_violation", kind=kind, frame_id=str(row.id), expected=row.size_bytes, found=size)

    def _note_stopped(self, state: PassState) -> None:
        self._stopped, self._held = state.stopped, OrphanPlaces.read(state.places).held
        SWEEPER_ALARM.labels(reason="orphans").set(self._stopped)
        SWEEPER_ALARM.labels(reason="places").set(self._held > 0)
