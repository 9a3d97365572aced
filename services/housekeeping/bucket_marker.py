"""Whose bucket it is: an object in it names the database whose frames it holds.

Only the owner of a bucket knows that an object without a row belongs to nobody. A service that was pointed at another
database, or at another's bucket, would take every frame there for an orphan. A copy of the database (a clone, a restore,
a standby that was promoted) has the same event log; the server's system identifier and timeline, and the database's oid,
tell it from the first one. `python -m services.commands bucket adopt` is for the operator who moved or restored a
database.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Any, Literal
from uuid import UUID

from models.values import DatabaseIdentity
from repositories.database import Database
from services.storage_service.keys import FRAMES_PREFIX, MARKER_KEY
from services.storage_service.service import StorageService
from utils.exceptions import ObjectMissing
from utils.logger import get_logger

_TYPE = "application/json"
Found = DatabaseIdentity | Literal["unreadable"] | None
log = get_logger(__name__)


class Ownership(Enum):
    OURS = "ours"
    COPY = "copy"  # the marker has our event log's id, and another server, timeline or database
    FOREIGN = "foreign"  # the marker names another database, or cannot be read
    UNCLAIMED = "unclaimed"  # no marker, frames of whom nobody knows, and none in this database


def judge(found: DatabaseIdentity | Literal["unreadable"], ours: DatabaseIdentity) -> Ownership:
    """Whose the marker's bucket is. What either of the two does not know (a role that may not ask, a marker of an earlier
    version) is not compared."""
    if isinstance(found, str) or found.log_id != ours.log_id:
        return Ownership.FOREIGN
    if found.system is None or ours.system is None:
        return Ownership.OURS
    return Ownership.OURS if found == ours else Ownership.COPY


class BucketMarker:
    """The marker of this database in its bucket. On the event loop; raises DatabaseUnavailable, StorageUnavailable."""

    def __init__(self, database: Database, storage: StorageService) -> None:
        self._database = database
        self._storage = storage
        self._there = False  # a marker has been read: before that one is asked for by HEAD, of which no error is logged
        self._partial = False  # the role may not ask which server it is: told once

    async def check(self) -> Ownership:
        """Whose the bucket is now. A bucket without a marker gets this database's, but for one with frames of others."""
        ours = await self.ours()
        if (found := await self.read()) is None:
            if await self._others_frames():
                return Ownership.UNCLAIMED
            await self._storage.put_if_absent(MARKER_KEY, _body(ours), _TYPE)
            found = await self.read()  # another database may have been first
            log.info("bucket_marked", bucket=self._storage.bucket, ours=found == ours)
            if found is None:  # removed again meanwhile
                return Ownership.UNCLAIMED
        state = judge(found, ours)
        if state is Ownership.OURS and found != ours and ours.system is not None:
            # An earlier version wrote it, or a role that could not ask.
            await self._storage.put_marker(MARKER_KEY, _body(ours), _TYPE)
            log.info("bucket_marker_completed", bucket=self._storage.bucket)
        return state

    async def adopt(self) -> tuple[Found, DatabaseIdentity]:
        """Writes this database's marker over what is there; returns what was there, and this database."""
        before, ours = await self.read(), await self.ours()
        await self._storage.put_marker(MARKER_KEY, _body(ours), _TYPE)
        log.warning("bucket_adopted", bucket=self._storage.bucket, before=described(before))
        return before, ours

    async def ours(self) -> DatabaseIdentity:
        ours = await self._database.hot.identity()
        if ours.system is None and not self._partial:
            self._partial = True
            log.warning(
                "database_identity_unknown", effect="a copy of this database is not told from it",
                remedy="GRANT EXECUTE ON FUNCTION pg_control_system() TO the service's role",
            )  # fmt: skip
        return ours

    async def read(self) -> Found:
        """The database that the marker names; "unreadable" for bytes that are no marker, None without one."""
        if not self._there and await self._storage.head(MARKER_KEY) is None:
            return None
        try:
            found: Any = json.loads(await self._storage.get_small(MARKER_KEY))
            self._there = True
            system = found.get("system_identifier")
            if system is None:
                return DatabaseIdentity(UUID(found["log_id"]), None, None, None)
            return DatabaseIdentity(UUID(found["log_id"]), str(system), int(found["timeline"]), int(found["database"]))
        except ObjectMissing:
            self._there = False
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            return "unreadable"

    async def _others_frames(self) -> bool:
        """Whether there are frames in the bucket while this database has never had one."""
        async with self._database.one_statement(events=False) as uow:
            if await uow.object_keys.any_frame():
                return False
        return bool((await self._storage.list_page(FRAMES_PREFIX, ""))[0])


def described(found: Found) -> str:
    """For an operator."""
    if found is None or isinstance(found, str):
        return "no marker" if found is None else "a marker that cannot be read"
    if found.system is None:
        return str(found.log_id)
    return f"{found.log_id} (system {found.system}, timeline {found.timeline}, database {found.database})"


def _body(ours: DatabaseIdentity) -> bytes:
    body: dict[str, Any] = {"log_id": str(ours.log_id)}
    if ours.system is not None:
        body |= {"system_identifier": ours.system, "timeline": ours.timeline, "database": ours.database}
    return json.dumps(body).encode()
