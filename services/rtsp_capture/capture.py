"""One capture from its claim to its end.

Pictures come from a shared stream, a sampler chooses those of the slots, a `FrameStore` stores them; this module
keeps the request's state: grid, source, errors, gaps, the end. All on the event loop. Every state write carries the
claim's epoch; when it is refused (LeaseLost) another process has the capture, and this one stops.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from config import RtspSettings
from models.entities import IngestionRequest
from models.values import CaptureError, CaptureMode, CaptureParams, Claim, DropReason, IngestionStatus, Sampling
from repositories.database import Database
from services.rtsp_capture.decoder import Jpeg
from services.rtsp_capture.frame_record import CaptureFacts
from services.rtsp_capture.frame_store import FrameStore
from services.rtsp_capture.hub import StreamHub
from services.rtsp_capture.packets import Picture
from services.rtsp_capture.picture_budget import PictureBudget
from services.rtsp_capture.reader import StreamInfo
from services.rtsp_capture.request_state import RequestState
from services.rtsp_capture.sampler import Chosen, SlotSampler
from services.rtsp_capture.stream import Stream, StreamKey
from services.storage_service import StorageService
from utils.exceptions import FATAL_BEFORE_FIRST_PICTURE, CaptureFailure, LeaseLost, SecretUnreadable
from utils.logger import get_logger
from utils.metrics import CAPTURES_FINISHED
from utils.secret_box import SecretBox

log = get_logger(__name__)

TICK = 0.25  # seconds between looks at the clock
LATE = 1.0  # seconds by which a live stream's pictures may lag behind their time
LEAD = 10.0  # seconds before a future frame_timestamp that the stream is opened


@dataclass(slots=True)
class CaptureDeps:
    """What a capture is given. `now` is wall-clock seconds since the epoch."""

    settings: RtspSettings
    database: Database
    storage: StorageService
    hub: StreamHub
    secrets: SecretBox
    pictures: PictureBudget
    now: Callable[[], float] = time.time


class CaptureJob:
    """Runs one claimed capture; `run` returns when it has ended, was handed back or was lost."""

    def __init__(self, claim: Claim, deps: CaptureDeps) -> None:
        self.claim = claim
        self.camera_id = ""
        self._deps = deps
        self._wake = asyncio.Event()
        self._cancelled = False
        self._handing_back = False
        self._lost = False
        self._params: CaptureParams
        self._stream: Stream | None = None
        self._sampler: SlotSampler | None = None
        self._store: FrameStore
        self._grid_saved = False
        self._started = self._live_at = 0.0
        self._state = RequestState(claim, deps.database, lambda: self._lost or self._handing_back)
        self._down: DropReason | None = None  # why no picture has come since the last one
        self._last_picture: float | None = None
        self._max_frames: int | None = None
        self._surplus_until = float("-inf")

    # -- from outside ------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """The client asked for the end; frames captured before are stored."""
        self._cancelled = True
        self._wake.set()

    def hand_back(self) -> None:
        """The process stops: what is in hand is stored, another process goes on."""
        self._handing_back = True
        self._wake.set()

    def lose(self) -> None:
        """Another owner has a newer epoch."""
        self._lost = True
        self._wake.set()

    # -- from the stream ---------------------------------------------------------------------------------------

    def on_live(self, _info: StreamInfo) -> None:
        self._live_at = self._deps.now()
        self._wake.set()

    def on_failure(self, failure: CaptureFailure) -> None:
        self._state.failed(failure, self._deps.now())
        if self._last_picture is not None and self._down is None:
            self._down = DropReason.CAMERA_DOWN
            self._state.gap_begins(self._last_picture)
        self._wake.set()

    def on_picture(self, picture: Picture) -> None:
        at = picture.packet.timestamp
        if self._stopping or not picture.usable:
            return
        if self._sampler is None:
            keyframe_first = self._params.mode is CaptureMode.CONTINUOUS and self._params.sampling is not Sampling.EXACT
            if at < self._started or (keyframe_first and not picture.packet.key):
                return
            self._begin_grid(at)
        if self._down is not None:
            self._state.gap_ends(max(at, self._live_at))  # some cameras begin with pictures of the time before
            self._state.reconnects += self._down is DropReason.CAMERA_DOWN
            self._down = None
            self._wake.set()
        self._last_picture = max(at, self._last_picture or at)
        if self._room == 0:  # max_frames are stored or on their way: no further slot comes due unless one fails
            self._surplus_until = at
            return
        self._take(*self._sampler_of().offer(picture))

    def _sampler_of(self) -> SlotSampler:
        assert self._sampler is not None
        return self._sampler

    # -- the run -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Raises LeaseLost when another process has the capture, DatabaseUnavailable when it could not begin."""
        row = await self._state.run(lambda uow: uow.requests.start(self.claim))
        if row.params is None or row.rtsp_url is None:
            raise LeaseLost
        self.camera_id = row.camera_id
        self._params = CaptureParams.from_json(row.params)
        self._max_frames = self._params.max_frames
        self._started = self._deps.now()
        self._store = FrameStore(
            CaptureFacts(row.id, row.camera_id, self._params.jpeg_quality, row.meta),
            self._deps.database, self._deps.storage, budget=self._deps.pictures, size=self._deps.settings.FRAME_BUFFER_SIZE,
            due=self._due, slot_time=lambda slot: self._sampler_of().time_of(slot), on_stored=self._on_stored,
            try_another=self._try_another,
        )  # fmt: skip
        self._store.go_on(row.stored, row.last_frame_at)
        self._state.begin(row.reconnects)
        if row.cancel_requested_at is not None:
            self._cancelled = True
        try:
            await self._resume(row)
            if (key := self._key(row)) is None or self._out_of_ring(row, key) or not await self._until_lead():
                return await self._end()
            self._stream = await self._acquire(key)
            if self._stream is not None:
                try:
                    await self._capture(row)
                finally:
                    self._stream.unlisten(self)
                    self._deps.hub.release(key)
            await self._end()
        finally:
            await self._store.close()

    def _key(self, row: IngestionRequest) -> StreamKey | None:
        """Which stream; None when no key here opens the row's URL, which ends the capture."""
        try:
            url = self._deps.secrets.open(row.rtsp_url or "")
        except SecretUnreadable as error:
            self._state.failed(CaptureFailure("unauthorized_camera", error.message), self._deps.now())
            log.error("capture_secret_unreadable", ingestion_id=str(row.id), camera_id=row.camera_id, reason=error.message)
            return None
        return StreamKey(row.camera_id, url, self._params.transport.value, self._params.reader)

    def _out_of_ring(self, row: IngestionRequest, key: StreamKey) -> bool:
        """Whether a moment was asked for that had passed already, and no open stream's ring reaches back to it."""
        at = self._params.frame_timestamp
        if at is None or at >= row.created_at or self._sampler_of().done:
            return False
        stream = self._deps.hub.find(key)
        span = stream.ring.span if stream is not None else None
        if span is not None and span[0] <= at.timestamp():
            return False
        told = "The camera's stream was not open then, or its ring does not reach back so far."
        failure = CaptureFailure("timestamp_out_of_range", told)
        if self._params.burst is not None and stream is not None and stream.failure is not None:
            failure = stream.failure  # the burst tried to open it
        self._state.failed(failure, self._deps.now())
        self._sampler_of().next_slot = 1
        self._store.drop([0], DropReason.NO_PICTURE)
        return True

    async def _acquire(self, key: StreamKey) -> Stream | None:
        """The stream; None when the capture was told to stop while it waited for one."""
        acquiring = asyncio.ensure_future(self._deps.hub.acquire(key))
        while not acquiring.done():
            waking = asyncio.ensure_future(self._wake.wait())
            await asyncio.wait({acquiring, waking}, return_when=asyncio.FIRST_COMPLETED)
            waking.cancel()
            self._wake.clear()
            if self._stopping and not acquiring.done():
                acquiring.cancel()
                await asyncio.gather(acquiring, return_exceptions=True)
                if acquiring.cancelled():
                    return None
        return acquiring.result()

    async def _resume(self, row: IngestionRequest) -> None:
        """Goes on with a grid that an earlier owner began: what it missed is booked, the gap is opened."""
        at = row.grid_start
        if self._params.frame_timestamp is not None and at is None:
            self._begin_grid(self._params.frame_timestamp.timestamp())
        if at is None:
            return
        fps, slots = self._grid_fps, self._params.slots
        now = self._deps.now()
        first = max(0, int((now - at.timestamp()) * fps) + 1)
        if self._params.mode is CaptureMode.SINGLE_FRAME:
            first = row.stored
        first = min(first, slots) if slots is not None else first
        self._sampler = SlotSampler(at.timestamp(), fps, self._sampling, first, slots)
        self._grid_saved = True
        self._store.gate.set()
        if first > 0:
            await self._state.run(lambda uow: uow.requests.settle(self.claim, DropReason.LEASE_LOST, first))
            since = row.last_frame_at or at
            await self._state.run(lambda uow: uow.requests.open_gap(self.claim, since, DropReason.LEASE_LOST.value))
            self._down = DropReason.LEASE_LOST
            self._last_picture = since.timestamp()
        log.info(
            "capture_resumed", ingestion_id=str(row.id), camera_id=row.camera_id, first_slot=first, epoch=self.claim.epoch
        )

    async def _until_lead(self) -> bool:
        """Waits until a future frame_timestamp is near; False when the capture was told to stop before."""
        if self._params.frame_timestamp is not None:
            while not self._stopping and (left := self._params.frame_timestamp.timestamp() - LEAD - self._deps.now()) > 0:
                await self._sleep(min(left, 5.0))
            self._started = min(self._deps.now(), self._params.frame_timestamp.timestamp() - LEAD)
        return not self._stopping

    async def _capture(self, row: IngestionRequest) -> None:
        assert self._stream is not None
        since = self._deps.now()
        if row.started_at is not None:  # waiting for a free stream does not count, time before a crash does
            since = min(since, row.started_at.timestamp()) if self.claim.resumed else since
        self._started = min(self._started, since) if self._params.frame_timestamp else since
        self._stream.listen(self)
        if self._params.frame_timestamp is not None:
            for picture in list(self._stream.ring.pictures()):
                self.on_picture(picture)
        newest = self._stream.newest(self._deps.now(), self._params.max_staleness)
        if self._params.mode is CaptureMode.SINGLE_FRAME and self._sampler is None and self._stream.live and newest:
            self._begin_grid(newest.packet.timestamp)
            self._last_picture = newest.packet.timestamp
            self._take([Chosen(0, newest)], [])
            self._sampler_of().next_slot = 1
        if self._stream.failure is not None and not self._stream.live:
            self.on_failure(self._stream.failure)
        while not self._stopping and not self._over():
            await self._write()
            self._store.touch()
            await self._sleep(TICK)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    @property
    def _stopping(self) -> bool:
        return self._cancelled or self._handing_back or self._lost

    @property
    def _sampling(self) -> Sampling:
        return Sampling.EXACT if self._params.mode is CaptureMode.SINGLE_FRAME else self._params.sampling

    @property
    def _grid_fps(self) -> float:
        """single_frame has one slot: wide enough that any picture while it waits belongs to it."""
        if self._params.mode is CaptureMode.SINGLE_FRAME:
            return 1 / (4 * max(LEAD, self._deps.settings.CAPTURE_TIMEOUT))
        return self._params.fps

    def _begin_grid(self, at: float) -> None:
        self._sampler = SlotSampler(at, self._grid_fps, self._sampling, 0, self._params.slots)
        self._wake.set()

    def _due(self) -> int:
        if self._sampler is None:
            return 0
        if self._room == 0:
            return self._sampler.next_slot
        return self._sampler.due(self._deps.now())

    @property
    def _room(self) -> int | None:
        """How many more frames max_frames lets in, counting those on their way; None without a limit."""
        if self._max_frames is None:
            return None
        return max(0, self._max_frames - self._store.stored - self._store.in_flight)

    def _take(self, chosen: list[Chosen], missed: list[int]) -> None:
        assert self._stream is not None
        for item in chosen:
            if self._room == 0:
                self._store.drop([item.slot], DropReason.SURPLUS)
            else:
                self._store.submit(item, self._stream)
        for slot in missed:
            self._store.drop([slot], self._why_missed(slot))
        if chosen or missed:
            self._wake.set()

    def _why_missed(self, slot: int) -> DropReason:
        stream = self._stream
        if self._sampler_of().time_of(slot) <= self._surplus_until:
            return DropReason.SURPLUS
        first = stream.first_of_segment if stream is not None else None
        if stream is None or not stream.live or first is None:
            return DropReason.CAMERA_DOWN
        return DropReason.CAMERA_DOWN if self._sampler_of().time_of(slot) < first.timestamp else DropReason.NO_PICTURE

    def _on_stored(self, picture: Jpeg) -> None:
        if self._stream is not None:
            self._state.source = self._stream.source_info(picture)
        self._wake.set()

    def _try_another(self, slot: int) -> bool:
        """A single_frame whose picture was damaged takes the next one, until RTSP__CAPTURE_TIMEOUT."""
        if self._params.mode is not CaptureMode.SINGLE_FRAME or self._params.frame_timestamp or not self._waits_for_frame:
            return False
        self._sampler_of().next_slot = slot
        self._wake.set()
        return True

    @property
    def _waits_for_frame(self) -> bool:
        return not self._stopping and self._deps.now() < self._started + self._deps.settings.CAPTURE_TIMEOUT

    # -- the end -----------------------------------------------------------------------------------------------

    def _over(self) -> bool:
        """Whether nothing more is to be captured; gives up the slots whose time has passed without a picture."""
        now = self._deps.now()
        if self._max_frames is not None and self._store.stored >= self._max_frames:
            return True
        failure = self._state.failure
        if self._last_picture is None and failure is not None and failure.code in FATAL_BEFORE_FIRST_PICTURE:
            return True
        if self._sampler is None:
            wait = self._first_picture_wait
            return wait is not None and now >= self._started + wait
        live = self._stream is not None and self._stream.live
        if self._params.mode is CaptureMode.SINGLE_FRAME and self._params.frame_timestamp is not None:
            if not self._sampler.done and now >= self._sampler.grid_start + self._moment_wait:
                self._take(*self._sampler.expire(float("inf")))
        elif self._room != 0:
            # A silent stream is live until RTSP__READ_TIMEOUT says otherwise; only then it is known why slots are empty.
            self._take(*self._sampler.expire(now - LATE - self._deps.settings.READ_TIMEOUT if live else now))
        elif self._params.slots is not None and now >= self._sampler.time_of(self._params.slots - 1) + LATE:
            return True  # the last frames still wait for the store, and no further slot would come
        if self._params.mode is CaptureMode.SINGLE_FRAME and self._store.in_flight and self._waits_for_frame:
            return False  # its picture may turn out to be damaged
        return self._sampler.done

    @property
    def _moment_wait(self) -> float:
        """Seconds after a frame_timestamp that a nearer picture may still come; of a burst, one that is near enough."""
        settings, burst = self._deps.settings, self._params.burst
        if burst is None:
            return settings.CAPTURE_TIMEOUT
        return min(settings.CAPTURE_TIMEOUT, burst.tolerance_ms / 1000 + LATE + settings.READ_TIMEOUT)

    @property
    def _first_picture_wait(self) -> float | None:
        """Seconds that a capture waits for its first picture; None: until cancelled."""
        timeout = self._deps.settings.CAPTURE_TIMEOUT
        if self._params.mode is CaptureMode.SINGLE_FRAME:
            return timeout
        return None if self._params.duration is None else max(timeout, self._params.duration)

    async def _end(self) -> None:
        """Stores what is on its way, then ends the capture or hands it back."""
        if self._lost:
            await self._store.drain(self._deps.settings.STORE_RETRY)  # evidence is welcome from any epoch
            raise LeaseLost
        await self._write()
        if self._handing_back and not self._cancelled:
            await self._store.drain(self._deps.settings.STORE_RETRY)
            await self._store.close()
            await self._state.run(lambda uow: uow.leases.hand_back(self.claim))
            log.info("capture_handed_back", ingestion_id=str(self.claim.request_id), camera_id=self.camera_id)
            return
        drained = await self._store.drain(self._deps.settings.STORE_RETRY)
        await self._store.close()
        rest = DropReason.CANCELLED if self._cancelled else DropReason.SURPLUS if self._room == 0 else DropReason.CAMERA_DOWN
        if not drained:
            rest = DropReason.SPOOL_FULL
        due = self._due()
        if self._params.mode is CaptureMode.SINGLE_FRAME:
            due = 1
        error = self._last_error()
        gap_end = datetime.fromtimestamp(self._deps.now(), UTC)
        wanted = IngestionStatus.CANCELLED if self._cancelled else IngestionStatus.COMPLETED
        status = await self._state.run(
            lambda uow: uow.requests.finish(self.claim, wanted, expected=due, rest=rest, error=error, gap_end=gap_end)
        )
        CAPTURES_FINISHED.labels(status=status.value).inc()
        log.info(
            "capture_ended", ingestion_id=str(self.claim.request_id), camera_id=self.camera_id, status=status.value, due=due
        )

    def _last_error(self) -> CaptureError:
        if self._last_picture is not None and self._down is None and self._store.decode_failures:
            failure = CaptureFailure("decode_failed", "Pictures came, and none could be decoded.")
        elif (error := self._state.error()) is not None:
            return error
        else:
            failure = CaptureFailure("read_timeout", "No picture came that could be decoded and stored.")
        return CaptureError(failure.code, failure.message, failure.retryable, datetime.fromtimestamp(self._deps.now(), UTC))

    async def _write(self) -> None:
        """Brings the row up to what is known here; frames are committed once it has the grid."""
        if self._sampler is not None and not self._grid_saved:
            if self._stream is not None and self._state.source is None:
                self._state.source = self._stream.source_info()
            self._sampler.grid_start = await self._state.save_grid(self._sampler.grid_start)
            self._grid_saved = True
            self._store.gate.set()
        await self._state.write()
