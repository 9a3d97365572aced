"""Whose bucket it is: an object in it names the database whose frames it holds.

Only the owner of a bucket knows that an object without a row belongs to nobody. A service that was pointed at another
database, or at another's bucket, would take every frame there for an orphan.
`python -m services.commands bucket adopt` is for the operator who moved or restored a database.
"""

from __future__ import annotations

import hashlib
import json
from enum import Enum
from typing import Any
from uuid import UUID

from repositories.database import Database
from services.housekeeping.bucket_walk import FRAMES_PREFIX
from services.storage_service.service import StorageService
from utils.exceptions import ObjectMissing
from utils.logger import get_logger

MARKER_KEY = ".trackshift/log"
_TYPE = "application/json"
log = get_logger(__name__)


class Ownership(Enum):
    OURS = "ours"
    FOREIGN = "foreign"  # the marker names another database, or cannot be read
    UNCLAIMED = "unclaimed"  # no marker, frames of whom nobody knows, and none in this database


class BucketMarker:
    """The marker of this database in its bucket. On the event loop; raises DatabaseUnavailable, StorageUnavailable."""

    def __init__(self, database: Database, storage: StorageService) -> None:
        self._database = database
        self._storage = storage

    async def check(self) -> Ownership:
        """Whose the bucket is now. A bucket without a marker gets this database's, but for one with frames of others."""
        ours = await self.ours()
        if (found := await self.read()) is None:
            if await self._others_frames():
                return Ownership.UNCLAIMED
            await self._storage.put_if_absent(MARKER_KEY, _body(ours), _TYPE)
            found = await self.read()  # another database may have been first
            log.info("bucket_marked", bucket=self._storage.bucket, ours=found == str(ours))
        return Ownership.OURS if found == str(ours) else Ownership.FOREIGN

    async def adopt(self) -> tuple[str | None, UUID]:
        """Writes this database's marker over what is there; returns what was there, and this database's id."""
        before, ours = await self.read(), await self.ours()
        data = _body(ours)
        await self._storage.put(MARKER_KEY, data, _TYPE, hashlib.sha256(data).hexdigest())
        log.warning("bucket_adopted", bucket=self._storage.bucket, before=before)
        return before, ours

    async def ours(self) -> UUID:
        async with self._database.one_statement() as uow:
            return await uow.object_keys.log_id()

    async def read(self) -> str | None:
        """The database that the marker names; "unreadable" for bytes that are no marker, None without one."""
        if await self._storage.head(MARKER_KEY) is None:
            return None
        try:
            found: Any = json.loads(await self._storage.get(MARKER_KEY))
            return str(UUID(found["log_id"]))
        except ObjectMissing:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            return "unreadable"

    async def _others_frames(self) -> bool:
        """Whether there are frames in the bucket while this database has never had one."""
        async with self._database.one_statement() as uow:
            if await uow.object_keys.any_frame():
                return False
        return bool((await self._storage.list_page(FRAMES_PREFIX, ""))[0])


def _body(log_id: UUID) -> bytes:
    return json.dumps({"log_id": str(log_id)}).encode()
