"""What a running capture writes to its request row: grid, source, latest error, gaps, reconnects.

The capture notes changes at once; `write` writes them in order and waits while the database is away. Every write
carries the claim's epoch; a refused one is LeaseLost.
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
from services.rtsp_capture.frames.slot_ledger import SlotLedger
from utils.exceptions import CaptureFailure, DatabaseUnavailable, LeaseLost

T = TypeVar("T")
_ERROR_INTERVAL = 10.0  # seconds between writes of the same error
_RETRY_DELAY = 0.5  # seconds, while the database is away


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class RequestState:
    """The state of one capture. `control` says whether it may be written, and whether to go on waiting for that."""

    def __init__(self, claim: Claim, database: Database, control: CaptureControl) -> None:
        self._claim = claim
        self._database = database
        self._control = control
        self.source: SourceInfo | None = None
        self._saved_source: SourceInfo | None = None
        self.failure: CaptureFailure | None = None  # the latest
        self._failed_at = 0.0
        self._saved_failure: CaptureFailure | None = None
        self._saved_at = 0.0
        self.last_picture_at: float | None = None  # seconds since the epoch
        self._live_at = 0.0
        self._gap: DropReason | None = None  # why no picture has come since the last one, or since the beginning
        self._may_have_gap = False  # a former owner waited for the first picture, too
        self._gap_marks: deque[tuple[bool, float]] = deque()  # (begins, when)
        self._reconnects = self._saved_reconnects = 0

    # -- what happened -----------------------------------------------------------------------------------------

    def resume(self, reconnects: int, *, waiting: bool) -> None:
        """Continues from what the row says. `waiting`: a former owner had no picture yet."""
        self._reconnects = self._saved_reconnects = reconnects
        self._may_have_gap = waiting

    def lease_was_lost(self, since: float) -> None:
        """Nobody captured since then; the row has the gap."""
        self._gap, self.last_picture_at = DropReason.LEASE_LOST, since

    def failed(self, failure: CaptureFailure, at: float) -> None:
        self.failure, self._failed_at = failure, at

    def stream_failed(self, failure: CaptureFailure, at: float, since: float) -> None:
        """The stream could not be opened, or broke: a gap begins with the last picture, or with the capture (`since`)."""
        self.failed(failure, at)
        self._camera_down(since)

    def ended_without_picture(self, since: float) -> None:
        """No picture came from `since`, the capture's beginning, to its end."""
        if self.last_picture_at is None:
            self._camera_down(since)

    def _camera_down(self, since: float) -> None:
        if self._gap is None:
            self._gap = DropReason.CAMERA_DOWN
            self._gap_marks.append((True, self.last_picture_at if self.last_picture_at is not None else since))

    def stream_opened(self, at: float) -> None:
        self._live_at = at

    def picture_came(self, at: float) -> bool:
        """A picture with this capture time came; True when it ends a gap."""
        ended, self._gap = self._gap, None
        if self.last_picture_at is None:  # the grid begins here: what was waited for until now is one gap
            if ended is not None or self._may_have_gap:
                self._gap_marks.append((False, at))
        elif ended is not None:
            # Some cameras begin with pictures of the time before.
            self._gap_marks.append((False, max(at, self._live_at)))
            self._reconnects += ended is DropReason.CAMERA_DOWN
        self.last_picture_at = max(at, self.last_picture_at or at)
        return ended is not None

    @property
    def receiving(self) -> bool:
        """Whether pictures came, and the stream has not failed since."""
        return self.last_picture_at is not None and self._gap is None

    def error(self) -> CaptureError | None:
        """The latest failure as the row keeps it."""
        if self.failure is None:
            return None
        return CaptureError(self.failure.code, self.failure.message, self.failure.retryable, _utc(self._failed_at))

    # -- writing -----------------------------------------------------------------------------------------------

    async def write(self, ledger: SlotLedger, source: SourceInfo | None = None) -> None:
        """Brings the row up to date, the grid's origin first; `source`: what is known of the stream before a frame is
        stored. Raises LeaseLost."""
        if ledger.sampler is not None and not ledger.saved:
            self.source = self.source or source
            ledger.grid_saved(await self._save_grid(ledger.grid.grid_start))
        if (source := self.source) is not None and source != self._saved_source:
            found = source
            await self.run(lambda uow: uow.captures.set_source(self._claim, found))
            self._saved_source = source
        if (error := self.error()) is not None and self._worth_saving():
            self._saved_failure, self._saved_at = self.failure, self._failed_at
            await self.run(lambda uow: uow.captures.set_error(self._claim, error))
        while self._gap_marks:
            begins, at = self._gap_marks[0]
            await self._mark_gap(begins, _utc(at))
            self._gap_marks.popleft()
        if (count := self._reconnects) != self._saved_reconnects:
            await self.run(lambda uow: uow.captures.set_reconnects(self._claim, count))
            self._saved_reconnects = count

    async def _save_grid(self, grid_start: float) -> float:
        """Sets the grid's origin unless it is set; returns the one that the row has."""
        source, at = self.source, _utc(grid_start)
        saved = await self.run(lambda uow: uow.captures.set_grid_start(self._claim, at, source))
        self._saved_source = source
        return saved.timestamp()

    def _worth_saving(self) -> bool:
        """A failure that repeats itself at every retry is written once in 10 s, with its newest time."""
        failure, saved = self.failure, self._saved_failure
        if failure is None or failure is saved:
            return False
        return saved is None or failure.code != saved.code or self._failed_at - self._saved_at > _ERROR_INTERVAL

    async def _mark_gap(self, begins: bool, at: datetime) -> None:
        if begins:
            await self.run(lambda uow: uow.captures.open_gap(self._claim, at, DropReason.CAMERA_DOWN.value))
        else:
            await self.run(lambda uow: uow.captures.close_gap(self._claim, at))

    async def run(self, work: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """A state write, retried until its outcome is known. Raises LeaseLost when it is refused or abandoned."""
        while not self._control.lost:
            if not self._control.fenced:
                try:
                    return await self._database.retry_until_known(work)
                except DatabaseUnavailable:
                    pass
            if self._control.given_up:
                break  # the lease lapses by itself
            await asyncio.sleep(_RETRY_DELAY)
        raise LeaseLost
