"""The end of a capture: pending frames are stored or spooled, then the request becomes final, or is handed back."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime

from models.values import CaptureError, DropReason, IngestionStatus
from repositories.database import UnitOfWork
from services.rtsp_capture.captures.context import CaptureContext
from services.rtsp_capture.captures.mode import Mode
from services.rtsp_capture.captures.slot_filler import SlotFiller
from utils.camera_series import camera_series
from utils.exceptions import CaptureFailure, DatabaseUnavailable, LeaseLost
from utils.logger import get_logger
from utils.metrics import CAPTURES_FINISHED, FRAMES_DROPPED

log = get_logger(__name__)

STOP_STORING_SECONDS = 0.5  # for storing when the capture must stop; the rest is spooled
HANDED_BACK_STORING_SECONDS = 3.0  # the same where nobody waits for it


async def end_capture(context: CaptureContext, mode: Mode, filler: SlotFiller | None) -> None:
    """Stores or spools pending frames, then ends the capture or hands it back. Raises LeaseLost.

    `filler`: None when the stream was not acquired; in modes that are `open_until_final` its stream is still held.
    """
    await _End(context, mode, filler).run()


class _End:
    def __init__(self, context: CaptureContext, mode: Mode, filler: SlotFiller | None) -> None:
        self._context = context
        self._mode = mode
        self._filler = filler
        self._control, self._ledger, self._frames = context.control, context.ledger, context.frames

    async def run(self) -> None:
        context, control, ledger = self._context, self._control, self._ledger
        names = {"ingestion_id": str(context.row.id), "camera_id": context.row.camera_id}
        if self._filler is not None:
            self._filler.stop()
        await self._mode.stop()
        if not control.lost:
            if self._filler is not None and not control.stopping:
                context.state.ended_without_picture(self._filler.since)
            await self._write()
            await self._mode.finish(self._filler)
            await self._write()
        handing_back = control.handing_back and not control.cancelled
        if handing_back and not control.lost and self._mode.hands_back_first:
            await context.state.run(self._hand_back)
            control.on_handed_back()
            log.info("capture_handed_back", pending=self._frames.pending, **names)
            await self._settle_frames(HANDED_BACK_STORING_SECONDS)
            await self._frames.close()
            await self._book_late()
            return
        decoded = await self._settle_frames()
        if control.lost:
            raise LeaseLost  # what was captured is stored or in the spool: evidence is welcome from any epoch
        if control.handing_back and not control.cancelled:
            await self._frames.close()
            await context.state.run(self._hand_back)
            log.info("capture_handed_back", pending=0, **names)
            return
        rest = DropReason.CAMERA_DOWN if ledger.room != 0 else DropReason.SURPLUS
        if control.cancelled:
            rest = DropReason.CANCELLED
        elif not decoded:
            rest = DropReason.QUEUE_FULL
        status, due = await self._finish(rest)
        FRAMES_DROPPED.labels(reason=DropReason.SPOOLED.value).inc(len(ledger.spooled))
        camera_series.dropped(context.row.camera_id, DropReason.SPOOLED.value, len(ledger.spooled))
        CAPTURES_FINISHED.labels(status=status.value).inc()
        log.info("capture_ended", status=status.value, due=due, spooled=len(ledger.spooled), **names)

    async def _write(self) -> None:
        source = self._filler.stream.source_info() if self._filler is not None else None
        await self._context.state.write(self._ledger, source)

    async def _settle_frames(self, stop_storing: float = STOP_STORING_SECONDS) -> bool:
        """Until all frames are stored or spooled, and for a while until they are out of the spool; False when some were
        not decoded. A capture that is to stop has `stop_storing` seconds for it; the spool takes what is left, but not
        pictures that are not decoded: a cancelled capture waits for those."""
        control, frames, patience = self._control, self._frames, self._context.deps.settings.STORE_RETRY
        began, stopping_since = time.monotonic(), float("inf")

        def stop() -> bool:
            nonlocal stopping_since
            if not control.stopping:
                return False
            stopping_since = min(stopping_since, time.monotonic())
            out_of_time = time.monotonic() - stopping_since > stop_storing
            return out_of_time and (control.given_up or not frames.decoding)

        await frames.drain(max(patience, stop_storing), stop)
        decoded = not frames.decoding
        await frames.flush()
        await frames.wait_for_replay(began + patience - time.monotonic(), lambda: control.stopping)
        return decoded

    async def _hand_back(self, uow: UnitOfWork) -> None:
        await uow.leases.hand_back(self._context.claim)
        if drops := self._ledger.final_drops():
            await uow.ledger.record(self._context.row.id, [], drops, self._ledger.due())

    async def _book_late(self) -> None:
        """What became of pictures since the capture was handed back. Not stored, they are booked as lost by the next owner,
        or here."""
        request_id, database = self._context.row.id, self._context.deps.database
        if drops := self._ledger.final_drops():
            with suppress(DatabaseUnavailable):
                await database.retry_until_known(lambda uow: uow.ledger.record(request_id, [], drops, 0))

    async def _finish(self, rest: DropReason) -> tuple[IngestionStatus, int]:
        """Writes the final state; returns it, and how many slots had come due. New triggers keep the request open."""
        mode = self._mode
        wanted = IngestionStatus.CANCELLED if self._control.cancelled else IngestionStatus.COMPLETED
        if self._context.claim.poisoned:
            wanted = IngestionStatus.FAILED
        if not mode.open_until_final:
            await self._frames.close()
        while True:
            due = self._due()
            status = await self._write_end(wanted, due, rest)
            if status is not IngestionStatus.IN_PROGRESS:
                return status, due
            await mode.finish(self._filler)
            await self._frames.drain(self._context.deps.settings.STORE_RETRY)

    async def _write_end(self, wanted: IngestionStatus, due: int, rest: DropReason) -> IngestionStatus:
        context, error, drops = self._context, self._error(), self._ledger.final_drops()
        events, gap_end = self._mode.events_at_end(due), datetime.fromtimestamp(context.clock.now(), UTC)
        return await context.state.run(
            lambda uow: uow.captures.finish(
                context.claim, wanted, expected=due, rest=rest, error=error, gap_end=gap_end, events=events, drops=drops
            )
        )

    def _due(self) -> int:
        if self._context.row.cancel_requested_at is not None and self._ledger.sampler is not None:
            due = self._ledger.grid.next_slot  # the cancel was there before this owner
        else:
            due = self._ledger.due()
        if self._ledger.sampler is None and not self._control.cancelled:
            due = self._mode.due_without_picture
        return max(due, self._mode.min_due)

    def _error(self) -> CaptureError:
        """Why there is no frame, should there be none."""
        state = self._context.state
        if self._context.claim.poisoned and (error := state.error()) is not None:
            return error
        if self._ledger.spooled:
            failure = CaptureFailure("read_timeout", "Pictures came, and wait in the spool: none could be stored yet.")
        elif state.receiving and self._frames.decode_failures:
            failure = CaptureFailure("decode_failed", "Pictures came, and none could be decoded.")
        elif (error := state.error()) is not None:
            return error
        else:
            failure = CaptureFailure("read_timeout", "No picture came that could be decoded and stored.")
        at = datetime.fromtimestamp(self._context.clock.now(), UTC)
        return CaptureError(failure.code, failure.message, failure.retryable, at)
