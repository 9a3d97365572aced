"""Nothing is written to the bucket, and nothing deleted, before its marker says that it is this database's.

The marker is read every POLL_INTERVAL seconds (one GET and one statement a process), not before each PUT. What was found
last decides: OURS writes and deletes. COPY (the same event log in another server, timeline or database: a clone, a
restore, a promotion) writes, because refusing would lose pictures; but one of two such databases would delete what the
other still needs, so every delete waits for `bucket adopt`. FOREIGN and UNCLAIMED do neither: as in an outage of the
store, captures go to the spool and uploads are answered 503.

On the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from services.housekeeping.bucket_marker import BucketMarker, Ownership
from utils.exceptions import BucketNotOurs, IngestionException
from utils.logger import get_logger
from utils.metrics import BUCKET_STATE

POLL_INTERVAL = 5.0  # seconds
FRESH = 3 * POLL_INTERVAL  # seconds: a delete does not go by an older poll
_WRITES = (Ownership.OURS, Ownership.COPY)
_WRONG = {
    Ownership.COPY: "This database is a copy of the one that the bucket's marker names: it stores, and deletes nothing.",
    Ownership.FOREIGN: "The bucket's marker names another database: nothing is stored and nothing deleted.",
    Ownership.UNCLAIMED: "The bucket holds frames that this database does not know: nothing is stored and nothing deleted.",
}
_REMEDY = "See `bucket adopt` in docs/bucket.md."
log = get_logger(__name__)


class BucketGuard:
    """One a process: `poll` is run every POLL_INTERVAL. StorageService asks it before each call that changes the bucket."""

    def __init__(self, marker: BucketMarker, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds that only grow."""
        self._marker = marker
        self._clock = clock
        self._state: Ownership | None = None  # not known before the first poll
        self._polled = 0.0
        self._polling: asyncio.Task[Ownership] | None = None

    async def poll(self) -> Ownership:
        """Reads the marker now; one at a time for all who ask meanwhile. Raises DatabaseUnavailable, StorageUnavailable."""
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll(), name="bucket-poll")
            self._polling.add_done_callback(lambda task: task.cancelled() or task.exception())  # asked for or not
        return await asyncio.shield(self._polling)

    async def may_write(self) -> None:
        """Raises BucketNotOurs; before the first poll what that raises.

        However long ago the poll was: while the database is away no row is committed for what is stored, and while
        the store is away nothing is stored.
        """
        state = self._state or await self.poll()
        if state not in _WRITES:
            raise BucketNotOurs(retry_after=POLL_INTERVAL)

    async def may_delete(self) -> None:
        """Raises BucketNotOurs; what a poll raises when the last one is not fresh."""
        if not await self.deletes():
            raise BucketNotOurs("Objects are deleted once an operator has looked whose the bucket is.")

    async def deletes(self) -> bool:
        """Whether objects may be deleted now. Raises what a poll raises when the last one is not fresh."""
        fresh = self._state is not None and self._clock() - self._polled < FRESH
        return (self._state if fresh else await self.poll()) is Ownership.OURS

    async def check(self) -> str:
        """For /health, from the last poll. Raises IngestionException when the bucket is not this database's."""
        if self._state is None:
            raise IngestionException("The bucket's marker has not been read yet.")
        if self._state is not Ownership.OURS:
            raise IngestionException(f"{_WRONG[self._state]} {_REMEDY}")
        return "the bucket is this database's"

    async def _poll(self) -> Ownership:
        began = self._clock()
        found = await self._marker.check()
        if found is not self._state:
            if found is not Ownership.OURS:
                log.error("bucket_not_ours", state=found.value, effect=_WRONG[found])
            elif self._state is not None:
                log.info("bucket_ours_again")
        self._state, self._polled = found, began
        for state in Ownership:
            BUCKET_STATE.labels(state=state.value).set(state is found)
        return found
