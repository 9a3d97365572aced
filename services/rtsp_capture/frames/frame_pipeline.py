"""From a chosen picture to a stored frame, or to the spool: file, PUT, row, each stage bounded, the newest winning.

Each frame has one task, which takes it through all stages. A slot is pending from the moment its picture is submitted
until it is stored, spooled or dropped. A picture waits a few seconds at most. Not decoded within RTSP__MAX_LAG: dropped
as queue_full. Decoded, and not stored within SPOOL__AFTER or two tries: spooled. Beyond RTSP__FRAME_BUFFER_SIZE pictures
of a capture, and RTSP__PICTURE_BUDGET bytes of all, the oldest that wait go the same ways. A picture that is being
decoded or PUT does not count as waiting: with a slow store every PUT would be abandoned half-way, and none would end.

Longer than 250 lines: a slot's way through the stages, and out of each, is read as one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from models.entities import IngestionRequest
from models.values import DropReason
from repositories.ledger import Recorded
from services.rtsp_capture.frames.encodings import PictureSource
from services.rtsp_capture.frames.frame_puts import FramePuts
from services.rtsp_capture.frames.frame_record import CaptureFacts, PendingFrame, frame_record, quality_of
from services.rtsp_capture.frames.frame_spool import FrameSpool
from services.rtsp_capture.frames.interfaces import FrameListener, PipelineDeps
from services.rtsp_capture.frames.ledger_writer import LedgerWriter
from services.rtsp_capture.frames.picking import picture_of
from services.rtsp_capture.frames.slot_ledger import SlotLedger
from services.rtsp_capture.grid.sampler import Chosen
from services.storage_service.keys import with_fresh_key
from utils.camera_series import camera_series
from utils.exceptions import CaptureFailure
from utils.logger import Throttle, get_logger
from utils.metrics import CAPTURE_TO_STORED, FRAMES, QUEUE_DEPTH

log = get_logger(__name__)
_throttle = Throttle(10, time.monotonic)
_DECODE = QUEUE_DEPTH.labels(queue="decode")


class FramePipeline:
    """The pending frames of one capture. On the event loop."""

    def __init__(
        self, facts: CaptureFacts, deps: PipelineDeps, ledger: SlotLedger, listener: FrameListener, epoch: int
    ) -> None:
        """`epoch`: the claim's, which spooled frames carry."""
        self._facts = facts
        self._budget = deps.pictures
        self._size = size = deps.settings.FRAME_BUFFER_SIZE
        self._max_lag = deps.settings.MAX_LAG
        self._judge = deps.quality
        self._ledger = ledger
        self._listener = listener
        self._checks = deps.checks
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by slot, oldest first
        self._decoding: dict[int, float] = {}  # slots whose picture is not decoded yet, since when; oldest first
        self._decoded: dict[int, PendingFrame] = {}  # by slot
        self._last_slot = -1  # the latest one submitted, and the capture time of its picture
        self._last_timestamp = 0.0
        self.decode_failures = 0
        max_wait = deps.spool.settings.AFTER
        self._spool = FrameSpool(deps.spool, facts, ledger, epoch)
        self._puts = FramePuts(deps.storage, deps.pictures, size, max_wait)
        self._writer = LedgerWriter(facts, deps.database, ledger, max_wait=max_wait, max_waiting=max(1, size // 4))

    def resume(self, row: IngestionRequest) -> int:
        """Continues an earlier owner's work: capture times go on from its last frame. Returns that frame's slot, or -1."""
        self._ledger.stored = row.stored
        if row.grid_start is not None and row.last_frame_at is not None:
            self._last_timestamp = row.last_frame_at.timestamp()
            self._last_slot = round((row.last_frame_at - row.grid_start).total_seconds() * self._ledger.plan.fps)
        return self._last_slot

    @property
    def decoding(self) -> bool:
        """Whether a picture is not decoded yet."""
        return bool(self._decoding)

    @property
    def pending(self) -> int:
        """Pictures in memory that are neither stored nor dropped nor on their way into the spool."""
        return len(self._tasks)

    def submit(self, chosen: Chosen, source: PictureSource) -> None:
        """Takes a picture in; the oldest that wait make room when there are too many, or they wait too long."""
        now = time.monotonic()
        for slot, since in list(self._decoding.items())[1:]:  # the first one is being decoded
            if now - since <= self._max_lag:
                break
            self._evict(slot)
        while self.pending >= self._size:
            if (oldest := self._oldest_waiting()) is None:
                self._ledger.drop(chosen.slot, DropReason.QUEUE_FULL)
                return
            self._evict(oldest)
        earliest = float("-inf")
        if chosen.slot > self._last_slot:
            # Never backwards within one capture, whatever the clocks did. An earlier slot, which a capture event reaches
            # back to, has its place by itself: a picture lies within half a slot of its slot's time.
            earliest = self._last_timestamp + 1e-6
            latest = max(one.timestamp for one in (chosen.picture, *chosen.candidates))
            self._last_timestamp, self._last_slot = max(latest, earliest), chosen.slot
        self._ledger.pend(chosen.slot)
        self._decoding[chosen.slot] = now
        self._tasks[chosen.slot] = asyncio.create_task(self._run(chosen, earliest, source))

    # -- making room -------------------------------------------------------------------------------------------

    def _oldest_waiting(self) -> int | None:
        """The oldest slot that is neither being decoded nor being PUT nor settled."""
        first = next(iter(self._decoding), None)  # a stream's pictures are decoded one by one, in order
        return next((slot for slot in self._tasks if slot != first and self._waits(slot)), None)

    def _waits(self, slot: int) -> bool:
        frame = self._decoded.get(slot)
        return slot not in self._puts.busy and (frame is None or not frame.settled)

    def _evict(self, slot: int) -> None:
        """A picture that waits makes room: it goes to the spool, or, not decoded yet, is dropped."""
        if not self._spool_or_cancel(slot):
            self._ledger.drop(slot, DropReason.QUEUE_FULL)

    def _spool_or_cancel(self, slot: int) -> bool:
        """Ends the slot's task. False for a picture that was not decoded: it is gone."""
        frame = self._decoded.get(slot)
        if frame is not None:
            if not frame.settled:  # else its task stores it in a moment
                self._to_spool(frame)
            return True
        self._cancel(slot)
        self._ledger.release(slot)
        return False

    def _cancel(self, slot: int) -> None:
        self._decoding.pop(slot, None)  # the task itself may not have begun, and never will
        if (task := self._tasks.pop(slot, None)) is not None and task is not asyncio.current_task():
            task.cancel()

    def _to_spool(self, frame: PendingFrame) -> None:
        del self._decoded[frame.slot]
        self._cancel(frame.slot)
        self._budget.free(frame.reservation)
        self._spool.put(frame)

    # -- the end -----------------------------------------------------------------------------------------------

    async def drain(self, timeout: float, stop: Callable[[], bool] = lambda: False) -> bool:
        """Waits until nothing is in memory; False when `timeout` seconds were not enough, or `stop` said so."""
        return await self._wait_until(lambda: not (self._tasks or self._spool.writing), timeout, stop)

    async def wait_for_replay(self, timeout: float, stop: Callable[[], bool]) -> bool:
        """Waits until the spool has none of this capture's frames; as `drain`."""
        return await self._wait_until(lambda: not self._ledger.spooled, timeout, stop)

    async def _wait_until(self, done: Callable[[], bool], timeout: float, stop: Callable[[], bool]) -> bool:
        deadline, pause = time.monotonic() + timeout, 0.005
        while not done():
            if stop() or time.monotonic() >= deadline:
                return False
            if len(self._writer) == len(self._tasks):  # else others follow, with which these are committed together
                self._writer.hurry()
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        return True

    async def flush(self) -> None:
        """Spools what is decoded, cancels what is not; returns when nothing is in memory."""
        while self._tasks:
            for slot in list(self._tasks):
                self._spool_or_cancel(slot)
            await asyncio.sleep(0)  # those that are settled end by themselves
        await self._spool.written()

    async def close(self) -> None:
        """Ends the commits, and spools what is still in memory. The capture's last transaction books the rest."""
        await self.flush()
        await self._writer.close()
        self._spool.close()

    # -- one frame ---------------------------------------------------------------------------------------------

    async def _run(self, chosen: Chosen, earliest: float, source: PictureSource) -> None:
        slot = chosen.slot
        try:
            frame = await self._decode(chosen, earliest, source)
            del chosen, source  # the picture's whole GOP would stay in memory while it waits for the store
            if frame is not None:
                await self._store(frame)
        except Exception:
            log.exception("frame_failed", ingestion_id=str(self._facts.request_id), slot=slot)
            if (failed := self._decoded.get(slot)) is not None:
                self._budget.free(failed.reservation)
            self._ledger.drop(slot, DropReason.DECODE_FAILED)
        finally:
            if self._tasks.get(slot) is asyncio.current_task():
                del self._tasks[slot]
                self._decoded.pop(slot, None)

    async def _decode(self, chosen: Chosen, earliest: float, source: PictureSource) -> PendingFrame | None:
        """The picture as a file; None when it is damaged. `earliest`: the capture time that it has at least."""
        slot = chosen.slot
        _DECODE.inc()
        try:
            picture = await picture_of(chosen, source, max_lag=self._max_lag, waiting=len(self._decoding))
            file = await self._facts.encoding.make(source, picture)
        except CaptureFailure as failure:
            self.decode_failures += 1
            if (withheld := _throttle.allow(str(self._facts.request_id))) is not None:
                log.info(
                    "decode_failed", ingestion_id=str(self._facts.request_id), slot=slot, reason=failure.message,
                    withheld=withheld,
                )  # fmt: skip
            self._ledger.release(slot)
            if not self._listener.on_damaged(slot):
                self._ledger.drop(slot, DropReason.DECODE_FAILED)
            return None
        finally:
            _DECODE.dec()
            self._decoding.pop(slot, None)
        timestamp = max(picture.timestamp, earliest)
        quality = await quality_of(self._judge, self._facts, file, timestamp)
        grid = self._ledger.grid
        record = frame_record(self._facts, slot, grid.time_of(slot), timestamp, picture.packet, file, quality)
        reservation = self._budget.hold(len(file.data), partial(self._evict, slot))
        frame = PendingFrame(record, file, datetime.fromtimestamp(grid.grid_start, UTC), time.monotonic(), reservation)
        self._decoded[slot] = frame
        return frame

    async def _store(self, frame: PendingFrame) -> None:
        """PUT and commit, again under a fresh key when the sweeper took the object; else to the spool."""
        while not self._writer.away and await self._puts.put(frame):
            recorded = await self._writer.record(frame)
            if recorded.outcome == "condemned":
                frame.record = with_fresh_key(frame.record)
                continue
            if recorded.outcome == "overdue":
                break
            self._budget.free(frame.reservation)
            self._report(frame, recorded)
            return
        self._to_spool(frame)

    def _report(self, frame: PendingFrame, recorded: Recorded) -> None:
        record, outcome = frame.record, recorded.outcome
        if outcome == "stored" or (outcome == "exists" and recorded.storage_path == record.storage_path):
            self._ledger.store(frame.slot)
            FRAMES.labels(source="rtsp", outcome="stored").inc()
            camera_series.stored(record.camera_id)
            CAPTURE_TO_STORED.observe(max(0.0, time.time() - record.timestamp.timestamp()))
            self._listener.on_stored(frame.file)
            if self._checks is not None:
                self._checks.offer(record, frame.file)
        elif outcome == "refused":
            self._ledger.drop(frame.slot, DropReason.SPOOL_FULL)
        else:
            self._ledger.release(frame.slot)
            log.info("frame_not_needed", ingestion_id=str(record.request_id), slot=frame.slot, outcome=outcome)
