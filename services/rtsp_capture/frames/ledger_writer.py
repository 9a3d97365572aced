"""Commits stored objects and the ledger's entries to the capture's row, in batches, oldest first.

While the database is away frames wait here for SPOOL__AFTER seconds; then their outcome is `overdue`. Dropped and idle
slots wait in the ledger until the database is back, or until the capture's last transaction takes them.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

from models.values import FrameRecord
from repositories.database import Database
from repositories.ledger import Recorded
from services.rtsp_capture.frames.frame_record import CaptureFacts, PendingFrame
from services.rtsp_capture.frames.slot_ledger import DUE_LAG_SECONDS, LedgerEntry, SlotLedger
from utils.exceptions import DatabaseUnavailable
from utils.logger import Throttle, get_logger
from utils.metrics import QUEUE_DEPTH

log = get_logger(__name__)
_throttle = Throttle(10, time.monotonic)
_ROWS = QUEUE_DEPTH.labels(queue="rows")
_MAX_BATCH = 100  # frames in one transaction
_COMMIT_INTERVAL = 0.2  # seconds between two commits at the least: what comes meanwhile goes together
_POLL_INTERVAL = 0.5  # seconds, while frames wait for the grid's origin to be saved or for a commit that hangs
_FIRST_RETRY_DELAY, _MAX_RETRY_DELAY = 0.2, 3.0  # seconds, while the database is away


@dataclass(slots=True, eq=False)
class _Waiting:
    """A frame that waits for its commit."""

    frame: PendingFrame
    outcome: asyncio.Future[Recorded]


@dataclass(frozen=True, slots=True)
class _Batch:
    waiting: list[_Waiting]
    entry: LedgerEntry

    @property
    def records(self) -> list[FrameRecord]:
        return [each.frame.record for each in self.waiting]


class LedgerWriter:
    """One a capture. On the event loop."""

    def __init__(
        self, facts: CaptureFacts, database: Database, ledger: SlotLedger, *, max_wait: float, max_waiting: int
    ) -> None:
        """`max_wait`: seconds that a frame may wait for an absent database. `max_waiting`: frames that may wait for
        others to be committed with."""
        self._facts = facts
        self._database = database
        self._ledger = ledger
        self._max_wait = max_wait
        self._max_waiting = max_waiting
        self._waiting: dict[int, _Waiting] = {}  # by slot, oldest first: stored objects without a row yet
        self._hurry = asyncio.Event()  # the next commit shall not wait for more
        self._frames_at = 0.0  # of the last commit that had frames, monotonic seconds
        self._batch_size = _MAX_BATCH
        self._retry_delay = 0.0
        self._hanging = False
        self._task = asyncio.create_task(self._run(), name=f"commit-{facts.request_id}")

    @property
    def away(self) -> bool:
        """Whether the database could not be used at the last try, or does not answer this one."""
        return self._retry_delay > 0 or self._hanging

    def __len__(self) -> int:
        """How many frames wait."""
        return len(self._waiting)

    async def record(self, frame: PendingFrame) -> Recorded:
        """Waits for the frame's commit; returns its outcome, which may also be `overdue`, or `refused` by the database.

        Cancelling the call takes the frame back, but not out of a commit that runs: then the row has it.
        """
        waiting = self._waiting[frame.slot] = _Waiting(frame, asyncio.get_running_loop().create_future())
        _ROWS.inc()
        self._ledger.changed.set()
        if len(self._waiting) >= self._max_waiting:
            self._hurry.set()
        try:
            return await waiting.outcome
        finally:
            frame.settled = False
            self._remove(waiting)
            _ROWS.dec()

    def hurry(self) -> None:
        """Commits now."""
        self._hurry.set()
        self._ledger.changed.set()

    async def close(self) -> None:
        """Ends the commits; what is not known to be in the row stays in the ledger."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # -- the loop ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._wait_for_change()
            await self._wait_for_more()
            self._expire_overdue()
            if (batch := self._next_batch()) is None:
                continue
            try:
                recorded = await self._commit_watched(batch)
            except DatabaseUnavailable:
                await self._wait_for_database()
            except Exception:
                log.exception("commit_refused", ingestion_id=str(self._facts.request_id), frames=len(batch.waiting))
                await self._refused(batch)
            else:
                self._retry_delay = 0.0
                self._committed(batch, recorded)

    async def _wait_for_change(self) -> None:
        try:
            async with asyncio.timeout(None if self._ledger.saved or not self._waiting else _POLL_INTERVAL):
                await self._ledger.changed.wait()
        except TimeoutError:
            pass
        self._ledger.changed.clear()

    async def _wait_for_more(self) -> None:
        """At 25 frames a second a commit for each costs the loop 2 ms, and with ten in it hardly more."""
        left = self._frames_at + _COMMIT_INTERVAL - time.monotonic()
        if left > 0 and not self._hurry.is_set():
            try:
                async with asyncio.timeout(left):
                    await self._hurry.wait()
            except TimeoutError:
                pass
        self._hurry.clear()
        self._ledger.changed.clear()

    def _next_batch(self) -> _Batch | None:
        if not self._ledger.saved:
            return None
        waiting = [each for each in self._waiting.values() if not each.outcome.done()][: self._batch_size]
        entry = self._ledger.entry()
        return _Batch(waiting, entry) if waiting or self._ledger.is_news(entry) else None

    async def _commit_watched(self, batch: _Batch) -> list[Recorded]:
        """The commit. Should the database not answer, frames do not wait for its timeout here."""
        commit, patience = asyncio.create_task(self._commit(batch)), self._max_wait
        try:
            while not (await asyncio.wait({commit}, timeout=patience))[0]:
                self._hanging, patience = True, _POLL_INTERVAL
                self._expire_overdue()
            return commit.result()
        finally:
            self._hanging = False
            commit.cancel()

    async def _commit(self, batch: _Batch) -> list[Recorded]:
        request_id, entry = self._facts.request_id, batch.entry
        if entry.opened:
            async with self._database.unit_of_work() as uow:
                await uow.ledger.open_slots(request_id, entry.opened)
                return await uow.ledger.record(request_id, batch.records, entry.drops, entry.due, entry.idle)
        return await self._database.record(request_id, batch.records, entry.drops, entry.due, entry.idle)

    def _committed(self, batch: _Batch, recorded: list[Recorded]) -> None:
        self._ledger.booked(batch.entry)
        if batch.waiting:
            self._frames_at = time.monotonic()
        outcomes = {one.sequence: one for one in recorded}
        for waiting in batch.waiting:
            self._settle(waiting, outcomes[waiting.frame.slot])
        if self._waiting:
            self.hurry()

    async def _wait_for_database(self) -> None:
        self._retry_delay = min(max(_FIRST_RETRY_DELAY, self._retry_delay * 2), _MAX_RETRY_DELAY)
        if (withheld := _throttle.allow(str(self._facts.request_id))) is not None:
            log.warning(
                "frames_waiting", ingestion_id=str(self._facts.request_id), camera_id=self._facts.camera_id,
                waiting=len(self._waiting), for_="database", withheld=withheld,
            )  # fmt: skip
        self._expire_overdue()
        await asyncio.sleep(self._retry_delay * random.uniform(0.5, 1.0))  # noqa: S311
        self._ledger.changed.set()

    async def _refused(self, batch: _Batch) -> None:
        """The database refuses these for good: one by one from now on, so that the one at fault blocks no other."""
        if len(batch.waiting) == 1:
            (waiting,) = batch.waiting
            self._settle(waiting, Recorded(waiting.frame.slot, "refused", None))
        elif not batch.waiting:
            await asyncio.sleep(DUE_LAG_SECONDS)
        self._batch_size = 1
        self._ledger.changed.set()

    # -- frames that wait --------------------------------------------------------------------------------------

    def _expire_overdue(self) -> None:
        oldest = time.monotonic() - self._max_wait
        if self.away or not self._ledger.saved:
            for slot, waiting in list(self._waiting.items()):
                if waiting.frame.since < oldest:
                    self._settle(waiting, Recorded(slot, "overdue", None))

    def _settle(self, waiting: _Waiting, recorded: Recorded) -> None:
        self._remove(waiting)
        if not waiting.outcome.done():  # done: the frame became the spool's meanwhile
            waiting.frame.settled = True
            waiting.outcome.set_result(recorded)

    def _remove(self, waiting: _Waiting) -> None:
        if self._waiting.get(waiting.frame.slot) is waiting:
            del self._waiting[waiting.frame.slot]
