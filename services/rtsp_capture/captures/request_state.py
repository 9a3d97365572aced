"""What a running capture tells its request row: grid, source, latest error, gaps, reconnects.

Noted at once by the capture's callbacks, written in order by `write`, which waits out an absent database. Every
write carries the claim's epoch; a refused one is LeaseLost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

from models.values import CaptureError, Claim, DropReason, SourceInfo
from repositories.database import Database, UnitOfWork
from services.rtsp_capture.captures.capture_control import CaptureControl
from utils.exceptions import CaptureFailure, DatabaseUnavailable, LeaseLost

T = TypeVar("T")
_ERROR_EVERY = 10.0  # seconds between writes of the same error
_PAUSE = 0.5  # seconds between tries while the database is away


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class RequestState:
    """Notes of one capture. `orders` say whether state may be written, and whether waiting for that has a point."""

    def __init__(self, claim: Claim, database: Database, orders: CaptureControl) -> None:
        self._claim = claim
        self._database = database
        self._orders = orders
        self.source: SourceInfo | None = None
        self._saved_source: SourceInfo | None = None
        self.failure: CaptureFailure | None = None  # the latest
        self._failed_at = 0.0
        self._saved_failure: CaptureFailure | None = None
        self._saved_at = 0.0
        self._gap_marks: deque[tuple[bool, float]] = deque()  # (begins, when)
        self.reconnects = 0
        self._saved_reconnects = 0

    def begin(self, reconnects: int) -> None:
        """Goes on from what the row says."""
        self.reconnects = self._saved_reconnects = reconnects

    def failed(self, failure: CaptureFailure, at: float) -> None:
        self.failure, self._failed_at = failure, at

    def gap_begins(self, at: float) -> None:
        self._gap_marks.append((True, at))

    def gap_ends(self, at: float) -> None:
        self._gap_marks.append((False, at))

    def error(self) -> CaptureError | None:
        """The latest failure as the row keeps it."""
        if self.failure is None:
            return None
        return CaptureError(self.failure.code, self.failure.message, self.failure.retryable, _utc(self._failed_at))

    async def save_grid(self, grid_start: float) -> float:
        """Sets the grid's origin unless it is set; returns the one that holds."""
        source, at = self.source, _utc(grid_start)
        held = await self.run(lambda uow: uow.captures.set_grid_start(self._claim, at, source))
        self._saved_source = source
        return held.timestamp()

    async def write(self) -> None:
        """Brings the row up to what was noted. Raises LeaseLost."""
        if (source := self.source) is not None and source != self._saved_source:
            await self.run(lambda uow: uow.captures.set_source(self._claim, source))
            self._saved_source = source
        if (error := self.error()) is not None and self._worth_saving():
            self._saved_failure, self._saved_at = self.failure, self._failed_at
            await self.run(lambda uow: uow.captures.set_error(self._claim, error))
        while self._gap_marks:
            begins, at = self._gap_marks[0]
            await self._mark_gap(begins, _utc(at))
            self._gap_marks.popleft()
        if (count := self.reconnects) != self._saved_reconnects:
            await self.run(lambda uow: uow.captures.set_reconnects(self._claim, count))
            self._saved_reconnects = count

    def _worth_saving(self) -> bool:
        """A failure that repeats itself at every retry is written once in 10 s, with its newest time."""
        failure, saved = self.failure, self._saved_failure
        if failure is None or failure is saved:
            return False
        return saved is None or failure.code != saved.code or self._failed_at - self._saved_at > _ERROR_EVERY

    async def _mark_gap(self, begins: bool, at: datetime) -> None:
        if begins:
            await self.run(lambda uow: uow.captures.open_gap(self._claim, at, DropReason.CAMERA_DOWN.value))
        else:
            await self.run(lambda uow: uow.captures.close_gap(self._claim, at))

    async def run(self, work: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """A state write, tried until its outcome is known. Raises LeaseLost when it is refused or given up."""
        while not self._orders.lost:
            if not self._orders.fenced:
                try:
                    return await self._database.retry_until_known(work)
                except DatabaseUnavailable:
                    pass
            if self._orders.given_up:
                break  # the lease lapses by itself
            await asyncio.sleep(_PAUSE)
        raise LeaseLost
