"""One capture from its start to its end.

Pictures come from a shared stream, a `SlotFiller` chooses those of the slots, a `FramePipeline` stores them; what each
slot became is in a `SlotLedger`, what the request became in a `RequestState`. What differs between the capture modes
is in a `Mode`. All on the event loop. Every state write carries the claim's epoch; when it is refused (LeaseLost)
another process has the capture, and this one stops.
"""

from __future__ import annotations

from datetime import datetime

from models.entities import IngestionRequest
from models.values import CaptureParams, Claim, DropReason
from services.rtsp_capture.captures.camera_stream import acquire_stream, stream_key
from services.rtsp_capture.captures.capture_clock import CaptureClock
from services.rtsp_capture.captures.capture_control import CaptureControl
from services.rtsp_capture.captures.capture_end import end_capture
from services.rtsp_capture.captures.context import CaptureContext, CaptureDeps
from services.rtsp_capture.captures.mode import PICTURE_LAG_SECONDS, Mode
from services.rtsp_capture.captures.request_state import RequestState
from services.rtsp_capture.captures.slot_filler import SlotFiller
from services.rtsp_capture.frames.encodings import encoding_of
from services.rtsp_capture.frames.frame_pipeline import FramePipeline
from services.rtsp_capture.frames.frame_record import CaptureFacts
from services.rtsp_capture.frames.slot_ledger import SlotLedger
from services.rtsp_capture.media.packets import PictureFile
from services.rtsp_capture.streams.stream import Stream, StreamKey
from utils.exceptions import CaptureFailure
from utils.logger import get_logger
from utils.metrics import REQUESTS_POISONED

log = get_logger(__name__)

TICK_INTERVAL = 0.25  # seconds


class Capture:
    """`run` returns when the capture has ended, was handed back or was lost."""

    def __init__(
        self,
        claim: Claim,
        deps: CaptureDeps,
        control: CaptureControl,
        state: RequestState,
        row: IngestionRequest,
        params: CaptureParams,
        kind: type[Mode],
    ) -> None:
        clock = CaptureClock(deps.host)
        self._ledger = SlotLedger(kind.grid(params, deps.settings), clock.now, row.camera_id)
        facts = CaptureFacts(row.id, row.camera_id, encoding_of(params), row.meta)
        self._frames = FramePipeline(facts, deps, self._ledger, self, claim.epoch)
        self._context = CaptureContext(claim, deps, control, state, row, params, clock, self._ledger, self._frames)
        self._clock, self._control, self._state, self._row = clock, control, state, row
        self.mode = kind(self._context)
        self._stream: Stream | None = None
        self._early: StreamKey | None = None  # the stream that was opened before it is listened to

    # -- from the pipeline -------------------------------------------------------------------------------------

    def on_stored(self, picture: PictureFile) -> None:
        if self._stream is not None:
            self._state.source = self._stream.source_info(picture)
        self._control.wake.set()

    def on_damaged(self, slot: int) -> bool:
        if not self.mode.retries_damaged:
            return False
        self._ledger.grid.next_slot = slot
        self._control.wake.set()
        return True

    # -- the run -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Raises LeaseLost when another process has the capture."""
        last_slot = self._frames.resume(self._row)
        self._state.resume(self._row.reconnects, waiting=self._context.claim.resumed and self._row.grid_start is None)
        try:
            await self._open_early()
            if self._row.grid_start is not None:
                await self._resume(self._row.grid_start, last_slot)
            if self._context.claim.poisoned:
                return await self._end_poisoned()
            if await self._lacks_keys():
                self._control.handing_back = True  # another process can open the camera's URL
                return await end_capture(self._context, self.mode, None)
            if self._ledger.done or (key := stream_key(self._context)) is None or not await self.mode.prepare():
                return await end_capture(self._context, self.mode, None)
            self._stream = stream = await acquire_stream(self._context, key)
            self._let_go()
            if stream is None:
                return await end_capture(self._context, self.mode, None)
            filler = SlotFiller(self._context, self.mode, stream, self._since())
            try:
                await self._record(filler)
                if self.mode.open_until_final:
                    return await end_capture(self._context, self.mode, filler)
            finally:
                filler.stop()
                self._context.deps.hub.release(key, self._row.owner)
            await end_capture(self._context, self.mode, filler)
        finally:
            self._let_go()
            await self._frames.close()

    async def _open_early(self) -> None:
        """Of a capture that another process ran, the stream opens while what that one left is booked, if there is room."""
        context, hub, url = self._context, self._context.deps.hub, self._row.rtsp_url or ""
        if not context.claim.resumed or context.claim.poisoned or self._control.stopping or context.deps.secrets.lacks(url):
            return
        if self.mode.opens_at_once and (key := stream_key(context)) is not None and (hub.find(key) or hub.free):
            await hub.acquire(key, self._row.owner, beyond_share=True)
            self._early = key

    def _let_go(self) -> None:
        if self._early is not None:
            self._context.deps.hub.release(self._early, self._row.owner)
            self._early = None

    async def _end_poisoned(self) -> None:
        """Ends a capture that owner after owner died of; nothing of it is run."""
        owners = self._context.claim.attempts
        failure = CaptureFailure("poisoned", f"{owners} processes in a row ended while they began this capture.")
        self._state.failed(failure, self._clock.now())
        REQUESTS_POISONED.inc()
        log.error("request_poisoned", ingestion_id=str(self._row.id), camera_id=self._row.camera_id, owners=owners)
        await end_capture(self._context, self.mode, None)

    async def _lacks_keys(self) -> bool:
        """Whether this process lacks the key of the camera's URL, and is found to have other keys than the database."""
        deps, url = self._context.deps, self._row.rtsp_url or ""
        if not deps.secrets.lacks(url) or self._control.cancelled:
            return False
        if deps.compare_keys is not None:
            await deps.compare_keys()
        return bool(deps.secrets.missing)

    @property
    def progressed(self) -> bool:
        """Whether this owner has got so far that the capture does not end its process at once."""
        return self._ledger.stored > self._row.stored or self._state.failure is not None

    def _since(self) -> float:
        """When the capture began: waiting for a free stream does not count, time before a crash does."""
        now, started_at = self._clock.now(), self._row.started_at
        return min(now, started_at.timestamp()) if started_at is not None and self._context.claim.resumed else now

    async def _resume(self, grid_start: datetime, last_slot: int) -> None:
        """Continues a grid that an earlier owner began: what nobody captured is booked, and the gap is opened."""
        row, ledger, claim, origin = self._row, self._ledger, self._context.claim, grid_start.timestamp()
        ledger.begin_grid(origin)
        first = max(0, self.mode.resume_slot(self._clock.now()), last_slot + 1)  # the former owner's clock may be ahead
        if ledger.plan.slots is not None:
            first = min(first, ledger.plan.slots)
        ledger.grid.next_slot = first
        if first > 0:
            if spooled := [slot for slot in ledger.spooled if slot < first]:
                drops = {DropReason.SPOOLED: spooled}
                await self._state.run(lambda uow: uow.ledger.record(row.id, [], drops, 0))
            since = row.last_frame_at or grid_start
            lost = await self.mode.lost_slots(first)
            await self._state.run(lambda uow: uow.captures.take_over(claim, first, since, lost))
            self._state.lease_was_lost(since.timestamp())
            ledger.booked_below(first)
        ledger.grid_saved(origin)
        log.info("capture_resumed", ingestion_id=str(row.id), camera_id=row.camera_id, first_slot=first, epoch=claim.epoch)

    async def _record(self, filler: SlotFiller) -> None:
        """Fills slots until the capture is over, or told to stop."""
        await filler.start()
        while not self._control.stopping:
            if not self._control.fenced:
                if self._over(filler):
                    break
                await self._state.write(self._ledger, filler.stream.source_info())
                await self.mode.tick(filler)
                self._ledger.touch()
            await self._control.sleep(TICK_INTERVAL)

    def _over(self, filler: SlotFiller) -> bool:
        """Whether nothing more is to be captured; drops the slots whose time has passed without a picture."""
        # A picture that was chosen may turn out to be damaged.
        may_want_another = self._ledger.done and self._frames.pending > 0 and self.mode.retries_damaged
        return self._complete(filler) and not may_want_another

    def _condemned(self) -> bool:
        """Whether the stream's pictures crash their decoder and none was stored. (Capture events may still be triggered.)"""
        failure, waits = self._state.failure, self._frames.pending or self._ledger.stored or self.mode.open_until_final
        return failure is not None and failure.code == "decode_failed" and not waits

    def _complete(self, filler: SlotFiller) -> bool:
        ledger, state, now = self._ledger, self._state, self._clock.now()
        if ledger.full:
            return True
        failure = state.failure
        if state.last_picture_at is None and failure is not None and failure.code in self.mode.fatal_before_first_picture:
            return True
        if self._condemned():
            return True
        if ledger.sampler is None:
            wait = self.mode.first_picture_timeout
            return wait is not None and now >= filler.since + wait
        slots = ledger.plan.slots
        if ledger.room != 0:
            filler.expire(now)
        elif slots is not None and now >= ledger.grid.time_of(slots - 1) + PICTURE_LAG_SECONDS:
            return True  # the last frames still wait for the store, and no further slot would come
        return ledger.done
