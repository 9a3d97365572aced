"""Whose bucket it is: an object in it names the database whose frames it holds.

Only the owner of a bucket can tell that an object without a row is nobody's. A service that was pointed at another
database, or at another's bucket, would take every frame there for an orphan.

    python -m services.bucket_marker show     what the marker says, and what this database is
    python -m services.bucket_marker adopt    from now on the bucket is this database's: objects without rows go

`adopt` is for the operator who moved a database, or gave a restored one a new log_id, and knows that no other service
uses the bucket. It works while the service runs.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
from enum import Enum
from typing import Any
from uuid import UUID

from config import ConfigurationError, Settings, get_settings
from repositories.database import Database
from services.bucket_walk import FRAMES_PREFIX
from services.embedded_parts import StartError, reach
from services.storage_service import StorageService
from utils.exceptions import IngestionException, ObjectMissing
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


async def _run(settings: Settings, command: str) -> int:
    async with reach(settings) as effective:
        database, storage = Database(effective.DB, "trackshift-marker"), StorageService(effective.STORAGE)
        try:
            marker = BucketMarker(database, storage)
            before, ours = await marker.adopt() if command == "adopt" else (await marker.read(), await marker.ours())
        finally:
            await storage.close()
            await database.close()
    print(f"bucket {effective.STORAGE.BUCKET_NAME}: {before or 'no marker'}; this database: {ours}")
    if command == "adopt":
        print("The bucket is this database's now. The sweeper goes on within a minute.")
    return 0 if command == "adopt" or before == str(ours) else 1


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 the bucket is this database's, 1 it is not, 2 that could not be found out."""
    parser = argparse.ArgumentParser(prog="python -m services.bucket_marker", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("command", choices=("show", "adopt"))
    command = parser.parse_args(arguments).command
    try:
        return asyncio.run(_run(get_settings(), command))
    except (ConfigurationError, IngestionException, StartError) as error:
        print(str(error), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
