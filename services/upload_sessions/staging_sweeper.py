"""Removes the leftovers of direct uploads: sessions whose time is over, staging objects that nobody will complete."""

from __future__ import annotations

from datetime import timedelta

from models.values import SessionState
from repositories.database import Database
from services.storage_service.service import StorageService
from services.upload_sessions.completion import COMPLETE_LEASE
from utils.logger import get_logger
from utils.metrics import STAGING_REMOVED, UPLOAD_SESSIONS, UPLOAD_SESSIONS_ENDED

INTERVAL = 60.0  # seconds between passes; of a short UPLOAD__SESSION_TTL a quarter
BATCH = 1000  # sessions in one pass
LONGEST_TTL = timedelta(days=7)  # what UPLOAD__SESSION_TTL allows: no session, of whatever database, is open longer
KEEP = timedelta(days=7)  # that an ended session is remembered, so that its client may ask again
COUNT_TO = 100_000
log = get_logger(__name__)


class StagingSweeper:
    """Any number of processes may run one: each step is repeatable, and asks for the state again."""

    def __init__(self, database: Database, storage: StorageService, *, orphan_age: timedelta = LONGEST_TTL) -> None:
        """`orphan_age`: of staging objects that no session of this database names.

        The bucket may be shared, or the database restored: an object is nobody's only when no session, here or
        elsewhere, can still be open for it. Ages are by the store's own clock.
        """
        self._database = database
        self._storage = storage
        self._orphan_age = orphan_age

    async def sweep(self) -> int:
        """One pass; how many objects it removed. Raises StorageUnavailable, DatabaseUnavailable."""
        async with self._database.unit_of_work() as uow:
            expired = await uow.upload_sessions.expire(COMPLETE_LEASE, BATCH)
            UPLOAD_SESSIONS.set(await uow.upload_sessions.count_open(COUNT_TO))
        UPLOAD_SESSIONS_ENDED.labels(status=SessionState.EXPIRED.value).inc(expired)
        removed = await self._clear_ended() + await self._remove_late()
        async with self._database.unit_of_work() as uow:
            await uow.upload_sessions.purge(KEEP, BATCH)
        if expired or removed:
            log.info("staging_swept", expired=expired, removed=removed)
        return removed

    async def _clear_ended(self) -> int:
        """What ended sessions left. The age of the newest of them does not matter: nothing reads it any more."""
        async with self._database.one_statement() as uow:
            rows = await uow.upload_sessions.uncleared(BATCH)
        for row in rows:
            await self._storage.staging.remove(row.id, multipart=row.part_size is not None)
            async with self._database.one_statement() as uow:
                await uow.upload_sessions.set_cleared([row.id])
            STAGING_REMOVED.inc()
        return len(rows)

    async def _remove_late(self) -> int:
        """Objects that came after their session had ended (URLs outlive it), or whose session is not known here."""
        late: list[str] = []
        async for page in self._storage.staging.listed():
            ids = [staged.session_id for staged in page if staged.session_id is not None]
            async with self._database.one_statement() as uow:
                states = await uow.upload_sessions.states(ids)
            for session_id, item in page:
                if session_id is None:
                    continue  # not ours to judge
                state = states.get(session_id)
                old = item.store_time - item.last_modified > self._orphan_age
                if (state is None and old) or (state is not None and state is not SessionState.OPEN):
                    late.append(item.key)
        if late:
            await self._storage.delete_many(late)
            STAGING_REMOVED.inc(len(late))
        return len(late)
