"""Stored objects and dropped slots of one capture on their way into its row, in batches, oldest first.

What is left when the database is away stays here: frames for SPOOL__AFTER seconds, then they are the spool's; slots
until the database is back, or until the capture's last transaction takes them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from models.values import DropReason, FrameRecord
from repositories.database import Database
from services.rtsp_capture.frames.pending_frame import PendingFrame
from utils.exceptions import DatabaseUnavailable
from utils.logger import Throttle, get_logger
from utils.metrics import FRAMES, FRAMES_DROPPED, QUEUE_DEPTH

log = get_logger(__name__)
_throttle = Throttle(10, time.monotonic)
_ROWS = QUEUE_DEPTH.labels(queue="rows")
_BATCH = 100  # frames in one transaction
_LEDGER_LAG = 1.0  # seconds that `expected` in the row may lag behind when no frame is committed
_IDLE_LAG = 5.0  # the same while only slots come due that belong to no event, which clients do not see
_GATHER = 0.2  # seconds between two commits at the least: what comes meanwhile goes together
_LOOK = 0.5  # seconds between looks at frames that wait for the grid's origin to be saved
_FIRST_DELAY, _MAX_DELAY = 0.2, 3.0  # seconds between tries while the database is away


@dataclass(frozen=True, slots=True)
class _Batch:
    items: list[PendingFrame]
    drops: dict[DropReason, set[int]]
    due: int
    opened: frozenset[int]
    idle: list[int]

    @property
    def records(self) -> list[FrameRecord]:
        return [item.record for item in self.items]


class LedgerWriter:
    """On the event loop. `settled` is called with a frame, its outcome and the path that its row has."""

    def __init__(
        self,
        request_id: UUID,
        camera_id: str,
        database: Database,
        *,
        after: float,
        most: int,
        due: Callable[[], int],
        idle: Callable[[int, int], list[int]],
        settled: Callable[[PendingFrame, str, str | None], None],
        overdue: Callable[[PendingFrame], None],
    ) -> None:
        """`after`: seconds that a frame may wait here; then `overdue` is called with it, and it is no more here.

        `most`: frames that may wait for others to be committed with."""
        self._request_id = request_id
        self._camera_id = camera_id
        self._database = database
        self._after = after
        self._most = most
        self._due = due
        self._idle = idle
        self._settled = settled
        self._overdue = overdue
        self.ready: dict[int, PendingFrame] = {}  # by slot: stored objects without a row yet
        self._drops: dict[DropReason, set[int]] = {}
        self._opened: set[int] = set()  # slots that an event has come to want, which may be booked idle
        self._changed = asyncio.Event()
        self._hurried = asyncio.Event()
        self._open = False
        self.recorded_due = 0
        self._committed_at = 0.0
        self._frames_at = 0.0  # of the last commit that had any
        self._batch = _BATCH
        self._delay = 0.0
        self._hanging = False
        self._task = asyncio.create_task(self._loop(), name=f"commit-{request_id}")

    @property
    def away(self) -> bool:
        """Whether the database could not be used at the last try, or does not answer this one."""
        return self._delay > 0 or self._hanging

    @property
    def opened(self) -> frozenset[int]:
        """Slots given to `open` that the row does not know of yet."""
        return frozenset(self._opened)

    @property
    def drops(self) -> dict[DropReason, set[int]]:
        """Slots given to `drop` that the row does not know of yet."""
        return {reason: set(slots) for reason, slots in self._drops.items()}

    def begin(self) -> None:
        """The row has the grid's origin: frames, which are numbered by it, may be committed."""
        self._open = True
        self._changed.set()

    def add(self, item: PendingFrame) -> None:
        self.ready[item.record.sequence] = item
        _ROWS.inc()
        self._changed.set()
        if len(self.ready) >= self._most:
            self._hurried.set()

    def take(self, slot: int) -> PendingFrame | None:
        """The frame, which is not to be committed from here any more. A commit under way may have it: then it is."""
        if (found := self.ready.pop(slot, None)) is not None:
            _ROWS.dec()
        return found

    def drop(self, slots: list[int], reason: DropReason) -> None:
        """Books slots as without a frame."""
        if slots:
            self._drops.setdefault(reason, set()).update(slots)
            self._changed.set()
            FRAMES_DROPPED.labels(reason=reason.value).inc(len(slots))
            FRAMES.labels(source="rtsp", outcome="dropped").inc(len(slots))

    def open(self, slots: list[int]) -> None:
        """An event has come to want these slots, some of which came due before and may be booked as idle."""
        self._opened.update(slots)
        self._changed.set()

    def booked(self, due: int) -> None:
        """The row knows what became of every slot below `due`."""
        self.recorded_due = max(due, self.recorded_due)

    def unbooked_idle(self, due: int) -> list[int]:
        """The idle slots below `due` that the row does not know of yet."""
        return self._idle(self.recorded_due, due)

    def touch(self) -> None:
        """Slots came due: the row says so with the next frame, or soon when none comes."""
        due, waited = self._due(), time.monotonic() - self._committed_at
        if due <= self.recorded_due or waited <= _LEDGER_LAG:
            return
        if waited > _IDLE_LAG or len(self.unbooked_idle(due)) < due - self.recorded_due:
            self._changed.set()

    def nudge(self) -> None:
        """Looks again now."""
        self._hurried.set()
        self._changed.set()

    async def close(self) -> None:
        """Ends the commits; what is not known to be in the row stays in `ready`, `drops` and `opened`."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # -- the loop ----------------------------------------------------------------------------------------------

    async def _loop(self) -> None:
        while True:
            await self._woken()
            await self._gathered()
            self._give_up_overdue()
            batch = self._next() if self._open else None
            if batch is None:
                continue
            try:
                recorded = await self._watched(batch)
            except DatabaseUnavailable:
                await self._wait_for_database()
            except Exception:
                log.exception("commit_refused", ingestion_id=str(self._request_id), frames=len(batch.items))
                await self._refused(batch)
            else:
                self._delay = 0.0
                self._booked(batch)
                outcomes = {one.sequence: one for one in recorded}
                for item in batch.items:
                    if self.take(item.record.sequence) is not None:  # else it became the spool's meanwhile
                        one = outcomes[item.record.sequence]
                        self._settled(item, one.outcome, one.storage_path)

    async def _woken(self) -> None:
        try:
            async with asyncio.timeout(None if self._open or not self.ready else _LOOK):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()

    async def _gathered(self) -> None:
        """At 25 frames a second a commit for each costs the loop 2 ms, and with ten in it hardly more."""
        left = self._frames_at + _GATHER - time.monotonic()
        if left > 0 and not self._hurried.is_set():
            try:
                async with asyncio.timeout(left):
                    await self._hurried.wait()
            except TimeoutError:
                pass
        self._hurried.clear()
        self._changed.clear()

    def _give_up_overdue(self) -> None:
        oldest = time.monotonic() - self._after
        if self.away or not self._open:
            for slot, item in list(self.ready.items()):
                if item.since < oldest:
                    self.take(slot)
                    self._overdue(item)

    def _next(self) -> _Batch | None:
        items, due, opened = list(self.ready.values())[: self._batch], self._due(), self.opened
        if not items and not self._drops and not opened and due <= self.recorded_due:
            return None
        return _Batch(items, self.drops, due, opened, self.unbooked_idle(due))

    async def _watched(self, batch: _Batch) -> Any:
        """The commit. Should the database not answer, frames do not wait for its timeout here."""
        commit, patience = asyncio.create_task(self._commit(batch)), self._after
        try:
            while not (await asyncio.wait({commit}, timeout=patience))[0]:
                self._hanging, patience = True, _LOOK
                self._give_up_overdue()
            return commit.result()
        finally:
            self._hanging = False
            commit.cancel()

    async def _commit(self, batch: _Batch) -> Any:
        if batch.opened:
            async with self._database.unit_of_work() as uow:
                await uow.ledger.open_slots(self._request_id, batch.opened)
                return await uow.ledger.record(self._request_id, batch.records, batch.drops, batch.due, batch.idle)
        async with self._database.one_statement() as uow:
            return await uow.ledger.record(self._request_id, batch.records, batch.drops, batch.due, batch.idle)

    def _booked(self, batch: _Batch) -> None:
        self.booked(batch.due)
        self._opened -= batch.opened
        self._committed_at = time.monotonic()
        if batch.items:
            self._frames_at = self._committed_at
        for reason, slots in batch.drops.items():
            self._drops[reason] -= slots
            if not self._drops[reason]:
                del self._drops[reason]
        if len(batch.items) < len(self.ready):
            self._hurried.set()
            self._changed.set()

    async def _wait_for_database(self) -> None:
        self._delay = min(max(_FIRST_DELAY, self._delay * 2), _MAX_DELAY)
        if (withheld := _throttle.allow(str(self._request_id))) is not None:
            log.warning(
                "frames_waiting", ingestion_id=str(self._request_id), camera_id=self._camera_id, waiting=len(self.ready),
                for_="database", withheld=withheld,
            )  # fmt: skip
        self._give_up_overdue()
        await asyncio.sleep(self._delay * random.uniform(0.5, 1.0))  # noqa: S311
        self._changed.set()

    async def _refused(self, batch: _Batch) -> None:
        """The database refuses these for good: one by one from now on, so that the one at fault blocks no other."""
        if len(batch.items) == 1:
            item = batch.items[0]
            self.take(item.record.sequence)
            self._settled(item, "refused", None)
        elif not batch.items:
            await asyncio.sleep(_LEDGER_LAG)
        self._batch = 1
        self._changed.set()
