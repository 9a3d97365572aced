"""One capture from its start to its end.

Pictures come from a shared stream, a sampler chooses those of the slots, a `FramePipeline` stores them; this module
keeps the request's state: grid, source, errors, gaps, the end. All on the event loop. Every state write carries the
claim's epoch; when it is refused (LeaseLost) another process has the capture, and this one stops.

`Capture` is a continuous one; what single_frame and event_driven do otherwise is in modules of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from config import RtspSettings
from models.entities import IngestionRequest
from models.values import CaptureError, CaptureParams, Claim, DropReason, IngestionStatus, Sampling
from repositories.captures import EventsAtEnd
from repositories.database import Database, UnitOfWork
from services.rtsp_capture.captures.capture_clock import CaptureClock
from services.rtsp_capture.captures.capture_control import CaptureControl
from services.rtsp_capture.captures.capture_slots import CaptureSlots
from services.rtsp_capture.captures.request_state import RequestState
from services.rtsp_capture.frames.frame_pipeline import FramePipeline
from services.rtsp_capture.frames.frame_record import CaptureFacts
from services.rtsp_capture.frames.picture_budget import PictureBudget
from services.rtsp_capture.grid.sampler import Chosen, SlotSampler
from services.rtsp_capture.media.decoder import Jpeg
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.media.packets import StreamInfo
from services.rtsp_capture.streams.hub import StreamHub
from services.rtsp_capture.streams.stream import Stream, StreamKey
from services.spool.spool import Spool
from services.storage_service.service import StorageService
from utils.exceptions import FATAL_BEFORE_FIRST_PICTURE, CaptureFailure, LeaseLost, SecretUnreadable
from utils.logger import get_logger
from utils.metrics import CAPTURES_FINISHED, FRAMES_DROPPED
from utils.secret_box import SecretBox

log = get_logger(__name__)

TICK = 0.25  # seconds between looks at the clock
LEAVE = 0.5  # seconds that a capture which is to stop goes on storing; then the rest is spooled
LATE = 1.0  # seconds by which a live stream's pictures may lag behind their time


@dataclass(slots=True)
class CaptureDeps:
    """What a capture is given. `now` is wall-clock seconds since the epoch."""

    settings: RtspSettings
    database: Database
    storage: StorageService
    hub: StreamHub
    secrets: SecretBox
    pictures: PictureBudget
    spool: Spool
    now: Callable[[], float] = time.time


class Capture:
    """A continuous capture, and what all modes share; `run` returns when it has ended, was handed back or was lost."""

    def __init__(
        self,
        claim: Claim,
        deps: CaptureDeps,
        orders: CaptureControl,
        state: RequestState,
        row: IngestionRequest,
        params: CaptureParams,
    ) -> None:
        self._held = claim  # what fences every state write
        self._deps = deps
        self._orders = orders
        self._state = state
        self._row = row
        self._params = params
        self._time = CaptureClock()
        self._slots = CaptureSlots(params, self._time)
        self._store = self._slots.store = FramePipeline(
            CaptureFacts(row.id, row.camera_id, params.jpeg_quality, row.meta),
            deps.database, deps.storage, deps.spool, budget=deps.pictures, size=deps.settings.FRAME_BUFFER_SIZE,
            max_lag=deps.settings.MAX_LAG, fps=self._grid_fps, epoch=claim.epoch, due=self._slots.due,
            slot_time=lambda slot: self._slots.grid.time_of(slot), on_stored=self._on_stored,
            try_another=self._try_another, idle=self._idle,
        )  # fmt: skip
        self._stream: Stream | None = None
        self._started = self._time.now()
        self._live_at = 0.0
        self._down: DropReason | None = None  # why no picture has come since the last one
        self._last_picture: float | None = None
        self._last_slot = -1  # of those that an earlier owner stored

    # -- what the other modes do otherwise ---------------------------------------------------------------------

    _ends_with_stream = False  # whether the stream is still wanted while the last frames are stored

    @property
    def _sampling(self) -> Sampling:
        return self._params.sampling

    @property
    def _grid_fps(self) -> float:
        return self._params.fps

    def _begins_grid(self, picture: Picture) -> bool:
        """Whether the grid's origin is this picture."""
        return self._sampling is Sampling.EXACT or picture.packet.key

    def _idle(self, first: int, stop: int) -> list[int]:
        """Of the slots first .. stop - 1 those that nobody wants."""
        return []

    def _try_another(self, slot: int) -> bool:
        """Whether the slot, whose picture was damaged, gets another one."""
        return False

    async def _ready(self) -> bool:
        """Prepares the capture of a stream that is not open yet; False when there is nothing left to do."""
        return not self._orders.stopping

    def _first_slot(self) -> int:
        """Where a resumed capture goes on: the slot after now, and after the last one that has a frame."""
        now, cancelled = self._time.now(), self._row.cancel_requested_at
        if cancelled is not None:  # while nobody ran it: what comes due after a cancel is not wanted
            now = min(now, cancelled.timestamp())
        first = int((now - self._slots.grid.grid_start) * self._grid_fps) + 1
        first = max(0, first, self._last_slot + 1)  # this host's clock may be behind the former owner's
        return min(first, self._params.slots) if self._params.slots is not None else first

    async def _take_over(self, first: int, since: datetime) -> None:
        """Books what the owner before left open, and opens the gap that it left."""
        await self._state.run(lambda uow: uow.captures.take_over(self._held, first, since))

    def _begun(self) -> None:
        """The stream is there and listened to."""

    async def _tick(self) -> None:
        """A look at the clock, every TICK seconds and whenever something happened."""
        await self._write()
        self._store.rows.touch()

    def _expire(self, now: float, live: bool) -> None:
        """Gives up slots whose time has passed without a picture."""
        # A silent stream is live until RTSP__READ_TIMEOUT says otherwise; only then it is known why slots are empty.
        self._take(*self._slots.grid.expire(now - LATE - self._deps.settings.READ_TIMEOUT if live else now))

    @property
    def _first_picture_wait(self) -> float | None:
        """Seconds that a capture waits for its first picture; None: until cancelled."""
        timeout = self._deps.settings.CAPTURE_TIMEOUT
        return None if self._params.duration is None else max(timeout, self._params.duration)

    def _take(self, chosen: list[Chosen], missed: list[int]) -> None:
        if self._slots.take(chosen, missed):
            self._orders.wake.set()

    async def _finish(self, wanted: IngestionStatus, due: int, rest: DropReason) -> IngestionStatus:
        """Writes the final state; returns it."""
        await self._store.close()
        return await self._write_end(wanted, due, rest)

    async def _write_end(
        self, wanted: IngestionStatus, due: int, rest: DropReason, events: EventsAtEnd | None = None
    ) -> IngestionStatus:
        error, gap_end, drops = self._last_error(), datetime.fromtimestamp(self._time.now(), UTC), self._store.unbooked()
        return await self._state.run(
            lambda uow: uow.captures.finish(
                self._held, wanted, expected=due, rest=rest, error=error, gap_end=gap_end, events=events, drops=drops
            )
        )

    # -- from the stream ---------------------------------------------------------------------------------------

    def on_live(self, _info: StreamInfo) -> None:
        self._live_at = self._time.now()
        self._orders.wake.set()

    def on_failure(self, failure: CaptureFailure) -> None:
        self._state.failed(failure, self._time.now())
        if self._last_picture is not None and self._down is None:
            self._down = DropReason.CAMERA_DOWN
            self._state.gap_begins(self._last_picture)
        self._orders.wake.set()

    def on_picture(self, picture: Picture) -> None:
        if self._orders.stopping or not picture.usable:
            return
        picture = self._time.picture(picture)
        at = picture.timestamp
        if self._slots.sampler is None:
            if at < self._started or not self._begins_grid(picture):
                return
            self._begin_grid(at)
        if self._down is not None:
            self._state.gap_ends(max(at, self._live_at))  # some cameras begin with pictures of the time before
            self._state.reconnects += self._down is DropReason.CAMERA_DOWN
            self._down = None
            self._orders.wake.set()
        self._last_picture = max(at, self._last_picture or at)
        self._take(*self._slots.offer(picture))

    # -- the run -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Raises LeaseLost when another process has the capture."""
        row = self._row
        if row.grid_start is not None and row.last_frame_at is not None:
            self._last_slot = round((row.last_frame_at - row.grid_start).total_seconds() * self._grid_fps)
        self._store.go_on(row.stored, row.last_frame_at, self._last_slot)
        self._state.begin(row.reconnects)
        try:
            if row.grid_start is not None:
                await self._resume(row.grid_start)
            if self._slots.done or (key := self._key()) is None or not await self._ready():
                return await self._end()
            self._stream = self._slots.stream = await self._acquire(key)
            if self._stream is None:
                return await self._end()
            try:
                await self._capture()
                if self._ends_with_stream:
                    return await self._end()
            finally:
                self._stream.unlisten(self)
                self._deps.hub.release(key)
            await self._end()
        finally:
            await self._store.close()

    def _key(self) -> StreamKey | None:
        """Which stream; None when no key here opens the row's URL, which ends the capture."""
        row = self._row
        try:
            url = self._deps.secrets.open(row.rtsp_url or "")
        except SecretUnreadable as error:
            self._state.failed(CaptureFailure("unauthorized_camera", error.message), self._time.now())
            log.error("capture_secret_unreadable", ingestion_id=str(row.id), camera_id=row.camera_id, reason=error.message)
            return None
        return StreamKey(row.camera_id, url, self._params.transport.value, self._params.reader)

    async def _acquire(self, key: StreamKey) -> Stream | None:
        """The stream; None when the capture was told to stop while it waited for one."""
        acquiring = asyncio.ensure_future(self._deps.hub.acquire(key))
        while not acquiring.done():
            waking = asyncio.ensure_future(self._orders.wake.wait())
            await asyncio.wait({acquiring, waking}, return_when=asyncio.FIRST_COMPLETED)
            waking.cancel()
            self._orders.wake.clear()
            if self._orders.stopping and not acquiring.done():
                acquiring.cancel()
                await asyncio.gather(acquiring, return_exceptions=True)
                if acquiring.cancelled():
                    return None
        return acquiring.result()

    async def _resume(self, grid_start: datetime) -> None:
        """Goes on with a grid that an earlier owner began: what it missed is booked, the gap is opened."""
        row, at = self._row, grid_start.timestamp()
        self._slots.sampler = SlotSampler(at, self._grid_fps, self._sampling, 0, self._params.slots)
        self._slots.sampler.next_slot = first = self._first_slot()
        if first > 0:
            if spooled := [slot for slot in self._store.spooled if slot < first]:
                drops = {DropReason.SPOOLED: spooled}
                await self._state.run(lambda uow: uow.ledger.record(row.id, [], drops, 0))
            since = row.last_frame_at or grid_start
            await self._take_over(first, since)
            self._down = DropReason.LEASE_LOST
            self._last_picture = since.timestamp()
            self._store.rows.booked(first)
        self._slots.saved = True
        self._store.rows.begin()
        log.info(
            "capture_resumed", ingestion_id=str(row.id), camera_id=row.camera_id, first_slot=first, epoch=self._held.epoch
        )

    async def _capture(self) -> None:
        assert self._stream is not None
        since = self._time.now()
        if self._row.started_at is not None:  # waiting for a free stream does not count, time before a crash does
            since = min(since, self._row.started_at.timestamp()) if self._held.resumed else since
        self._started = since
        self._stream.listen(self)
        self._begun()
        if self._stream.failure is not None and not self._stream.live:
            self.on_failure(self._stream.failure)
        while not self._orders.stopping:
            if not self._orders.fenced:
                if self._over():
                    break
                await self._tick()
            await self._orders.sleep(TICK)

    def _begin_grid(self, at: float) -> None:
        self._slots.sampler = SlotSampler(at, self._grid_fps, self._sampling, 0, self._params.slots)
        self._orders.wake.set()

    def _on_stored(self, picture: Jpeg) -> None:
        if self._stream is not None:
            self._state.source = self._stream.source_info(picture)
        self._orders.wake.set()

    # -- the end -----------------------------------------------------------------------------------------------

    def _over(self) -> bool:
        """Whether nothing more is to be captured; gives up the slots whose time has passed without a picture."""
        now = self._time.now()
        if self._slots.full:
            return True
        failure = self._state.failure
        if self._last_picture is None and failure is not None and failure.code in FATAL_BEFORE_FIRST_PICTURE:
            return True
        if self._slots.sampler is None:
            wait = self._first_picture_wait
            return wait is not None and now >= self._started + wait
        if self._slots.room != 0:
            self._expire(now, self._stream is not None and self._stream.live)
        elif self._params.slots is not None and now >= self._slots.grid.time_of(self._params.slots - 1) + LATE:
            return True  # the last frames still wait for the store, and no further slot would come
        return self._slots.done

    async def _end(self) -> None:
        """Stores or spools what is on its way, then ends the capture or hands it back."""
        orders, store = self._orders, self._store
        names = {"ingestion_id": str(self._row.id), "camera_id": self._row.camera_id}
        if not orders.lost:
            await self._write()
        decoded = await self._settle_frames()
        if orders.lost:
            raise LeaseLost  # what was captured is stored or in the spool: evidence is welcome from any epoch
        if orders.handing_back and not orders.cancelled:
            await store.close()
            drops, due = store.unbooked(), self._slots.due()
            await self._state.run(lambda uow: self._hand_back(uow, drops, due))
            log.info("capture_handed_back", **names)
            return
        rest = DropReason.CAMERA_DOWN if self._slots.room != 0 else DropReason.SURPLUS
        if orders.cancelled:
            rest = DropReason.CANCELLED
        elif not decoded:
            rest = DropReason.QUEUE_FULL
        due = self._due_at_end()
        wanted = IngestionStatus.CANCELLED if orders.cancelled else IngestionStatus.COMPLETED
        status = await self._finish(wanted, due, rest)
        FRAMES_DROPPED.labels(reason=DropReason.SPOOLED.value).inc(len(store.spooled))
        CAPTURES_FINISHED.labels(status=status.value).inc()
        log.info("capture_ended", status=status.value, due=due, spooled=len(store.spooled), **names)

    async def _settle_frames(self) -> bool:
        """Until all frames are stored or in the spool, and for a while until they are out of it; False when some were not
        decoded. A capture that is to stop has LEAVE seconds for storing; the spool takes what is left, undecoded pictures
        excepted: for those a cancelled one waits."""
        orders, store, patience = self._orders, self._store, self._deps.settings.STORE_RETRY
        began, told_at = time.monotonic(), float("inf")

        def told() -> bool:
            nonlocal told_at
            if not orders.stopping:
                return False
            told_at = min(told_at, time.monotonic())
            return time.monotonic() - told_at > LEAVE and (orders.given_up or not store.decoding)

        await store.drain(max(patience, LEAVE), told)
        decoded = not store.decoding
        await store.flush()
        await store.replayed(began + patience - time.monotonic(), lambda: orders.stopping)
        return decoded

    async def _hand_back(self, uow: UnitOfWork, drops: dict[DropReason, set[int]], due: int) -> None:
        await uow.leases.hand_back(self._held)
        if drops:
            await uow.ledger.record(self._row.id, [], drops, due)

    def _due_at_end(self) -> int:
        if self._row.cancel_requested_at is not None and self._slots.sampler is not None:
            return self._slots.grid.next_slot  # the cancel was there before this owner
        return self._slots.due()

    def _last_error(self) -> CaptureError:
        if self._store.spooled:
            failure = CaptureFailure("read_timeout", "Pictures came, and wait in the spool: none could be stored yet.")
        elif self._last_picture is not None and self._down is None and self._store.decode_failures:
            failure = CaptureFailure("decode_failed", "Pictures came, and none could be decoded.")
        elif (error := self._state.error()) is not None:
            return error
        else:
            failure = CaptureFailure("read_timeout", "No picture came that could be decoded and stored.")
        return CaptureError(failure.code, failure.message, failure.retryable, datetime.fromtimestamp(self._time.now(), UTC))

    async def _write(self) -> None:
        """Brings the row up to what is known here; frames are committed once it has the grid."""
        sampler = self._slots.sampler
        if sampler is not None and not self._slots.saved:
            if self._stream is not None and self._state.source is None:
                self._state.source = self._stream.source_info()
            sampler.grid_start = await self._state.save_grid(sampler.grid_start)
            self._slots.saved = True
            self._store.rows.begin()
        await self._state.write()
