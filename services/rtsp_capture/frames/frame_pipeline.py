"""From a chosen picture to a stored frame, or to the spool: decode, PUT, row, each stage bounded, the newest winning.

A frame counts as in flight from the moment its slot is due until it is in the row's `stored` or `dropped`; while its
capture runs that includes the spool. Here it waits a few seconds at most. Not decoded within RTSP__MAX_LAG: dropped as
queue_full. Decoded, and not stored within SPOOL__AFTER or two tries: spooled. Beyond RTSP__FRAME_BUFFER_SIZE pictures of
a capture, and RTSP__PICTURE_BUDGET bytes of all, the oldest that wait go the same ways. What is being decoded or PUT at
this moment does not wait: with a slow store it would be given up half-way for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from models.values import DropReason
from repositories.database import Database
from services.rtsp_capture.frames.frame_puts import FramePuts
from services.rtsp_capture.frames.frame_record import CaptureFacts, frame_record
from services.rtsp_capture.frames.frame_spool import FrameSpool
from services.rtsp_capture.frames.ledger_writer import LedgerWriter
from services.rtsp_capture.frames.pending_frame import PendingFrame
from services.rtsp_capture.frames.picture_budget import PictureBudget
from services.rtsp_capture.grid.sampler import Chosen
from services.rtsp_capture.media.decoder import Jpeg
from services.rtsp_capture.media.gop_buffer import Picture
from services.spool.spool import Spool
from services.storage_service.keys import with_fresh_key
from services.storage_service.service import StorageService
from utils.exceptions import CaptureFailure
from utils.logger import Throttle, get_logger
from utils.metrics import CAPTURE_TO_STORED, FRAMES, QUEUE_DEPTH

log = get_logger(__name__)
_throttle = Throttle(10, time.monotonic)
_DECODE = QUEUE_DEPTH.labels(queue="decode")


class Decodes(Protocol):
    """What turns a picture into a JPEG: a Stream."""

    async def decode(self, picture: Picture, quality: int) -> Jpeg:
        """Raises CaptureFailure decode_failed."""


class FramePipeline:
    """The frames of one capture on their way. On the event loop.

    `rows`: those that only lack their row, and dropped slots; `spool`: those that store or database had no time for.
    """

    def __init__(
        self,
        facts: CaptureFacts,
        database: Database,
        storage: StorageService,
        spool: Spool,
        *,
        budget: PictureBudget,
        size: int,
        max_lag: float,
        fps: float,
        epoch: int,
        due: Callable[[], int],
        slot_time: Callable[[int], float],
        on_stored: Callable[[Jpeg], None],
        try_another: Callable[[int], bool],
        idle: Callable[[int, int], list[int]],
    ) -> None:
        """`fps`: slots a second of the grid. `try_another(slot)`: whether the slot, whose picture was damaged, gets another
        one. `idle(first, stop)`: which slots of first .. stop - 1 belong to no event."""
        self._facts = facts
        self._budget = budget
        self._size = size
        self._max_lag = max_lag
        self._slot_time = slot_time
        self._on_stored = on_stored
        self._try_another = try_another
        self._last_slot = -1  # of those taken in, whose picture is the latest
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by slot, oldest first: decode and PUT
        self._decoding: dict[int, float] = {}  # slots whose picture is not decoded yet, since when; oldest first
        self._items: dict[int, PendingFrame] = {}  # by slot, oldest first: decoded, waiting to be PUT or being PUT
        self.spool = FrameSpool(
            spool, facts.request_id, fps=fps, epoch=epoch, stored=self._from_spool,
            lost=lambda slot: self.drop([slot], DropReason.SPOOL_FULL),
        )  # fmt: skip
        self._puts = FramePuts(storage, budget, size, self.spool.after)
        self._last_timestamp = 0.0
        self.decode_failures = 0
        self.stored = 0
        self.rows = LedgerWriter(
            facts.request_id, facts.camera_id, database, after=self.spool.after, most=max(1, size // 4), due=due,
            idle=idle, settled=self._settled, overdue=self._to_spool,
        )  # fmt: skip

    def go_on(self, stored: int, last_frame_at: datetime | None, last_slot: int = -1) -> None:
        """Continues what an earlier owner stored: times go on from its last one, which filled `last_slot`."""
        self.stored = stored
        self._last_timestamp = last_frame_at.timestamp() if last_frame_at is not None else 0.0
        self._last_slot = last_slot

    @property
    def decoding(self) -> bool:
        """Whether a picture is not decoded yet."""
        return bool(self._decoding)

    @property
    def spooled(self) -> set[int]:
        """Slots whose frames are in the spool, an earlier owner's too."""
        return self.spool.slots

    @property
    def in_hand(self) -> int:
        """Pictures in memory that are neither stored nor dropped nor on their way into the spool."""
        return len(self._tasks.keys() | self.rows.ready.keys())  # a slot may be in both for a moment

    @property
    def in_flight(self) -> int:
        """Pictures taken in that may still be stored: in memory, or in the spool."""
        return len(self._tasks.keys() | self.rows.ready.keys() | self.spool.writing.keys() | self.spooled)

    def submit(self, chosen: Chosen, source: Decodes) -> None:
        """Takes a picture in; the oldest that still wait make room when there are too many, or they wait too long."""
        now = time.monotonic()
        for slot, since in list(self._decoding.items())[1:]:  # the first one is being decoded
            if now - since <= self._max_lag:
                break
            self._give_up(slot)
        while self.in_hand >= self._size:
            if (oldest := self._oldest_waiting()) is None:
                self.drop([chosen.slot], DropReason.QUEUE_FULL)
                return
            self._give_up(oldest)
        timestamp = chosen.picture.timestamp
        if chosen.slot > self._last_slot:
            # Never backwards within one capture, whatever the clocks did (invariant 4). A slot of before, which an event
            # reaches back to, has its place by itself: a picture lies within half a slot of its slot's time.
            timestamp = max(timestamp, self._last_timestamp + 1e-6)
            self._last_timestamp, self._last_slot = timestamp, chosen.slot
        self._decoding[chosen.slot] = now
        task = self._tasks[chosen.slot] = asyncio.create_task(self._store(chosen, timestamp, source))
        task.add_done_callback(partial(self._done, chosen.slot))

    def _oldest_waiting(self) -> int | None:
        """The oldest slot that is neither being decoded nor being PUT."""
        first = next(iter(self._decoding), None)  # a stream's pictures are decoded one by one, in order
        waiting = (slot for slot in self._tasks if slot != first and slot not in self._puts.busy)
        candidates = [slot for slot in (next(waiting, None), next(iter(self.rows.ready), None)) if slot is not None]
        return min(candidates, default=None)

    def _give_up(self, slot: int) -> None:
        """A picture that waits makes room: it goes to the spool, or, not decoded yet, for good."""
        if (item := self._items.get(slot) or self.rows.take(slot)) is not None:
            self._to_spool(item)
        elif self._stop(slot):
            self.drop([slot], DropReason.QUEUE_FULL)

    def _stop(self, slot: int) -> bool:
        """Whether there was a task for the slot, which is cancelled."""
        self._decoding.pop(slot, None)  # the task itself may not have begun, and never will
        if (task := self._tasks.pop(slot, None)) is None:
            return False
        if task is not asyncio.current_task():
            task.cancel()
        return True

    def drop(self, slots: list[int], reason: DropReason) -> None:
        """Books slots as without a frame."""
        self.rows.drop(slots, reason)

    # -- the end -----------------------------------------------------------------------------------------------

    async def drain(self, timeout: float, told: Callable[[], bool] = lambda: False) -> bool:
        """Waits until nothing is in memory; False when `timeout` seconds were not enough, or it was `told` to leave."""
        return await self._until(lambda: not (self.in_hand or self.spool.writing), timeout, told)

    async def replayed(self, timeout: float, told: Callable[[], bool]) -> bool:
        """Waits until the spool has none of this capture's frames; as `drain`."""
        return await self._until(lambda: not self.spooled, timeout, told)

    async def _until(self, done: Callable[[], bool], timeout: float, told: Callable[[], bool]) -> bool:
        deadline, pause = time.monotonic() + timeout, 0.005
        while not done():
            if told() or time.monotonic() >= deadline:
                return False
            if not self._tasks:  # else others follow, with which these go together
                self.rows.nudge()
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)
        return True

    async def flush(self) -> None:
        """What is in memory and decoded goes to the spool; returns when it is there. What is not decoded is cancelled."""
        for slot in [*self._tasks, *self.rows.ready]:
            if (item := self._items.get(slot) or self.rows.take(slot)) is not None:
                self._to_spool(item)
            else:
                self._stop(slot)
        await self.spool.written()

    def unbooked(self) -> dict[DropReason, set[int]]:
        """What the row is to be told at the end: slots dropped, slots whose frames are in the spool."""
        drops = self.rows.drops
        if self.spooled:
            drops[DropReason.SPOOLED] = set(self.spooled)
        return drops

    async def close(self) -> None:
        """Ends the commits, and spools what is still in memory. What that leaves unbooked the end of the capture books."""
        await self.flush()
        await self.rows.close()
        self.spool.close()

    # -- stages ------------------------------------------------------------------------------------------------

    def _done(self, slot: int, task: asyncio.Task[None]) -> None:
        if self._tasks.get(slot) is task:
            del self._tasks[slot]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("frame_failed", ingestion_id=str(self._facts.request_id), slot=slot, exc_info=error)
            if (item := self._items.pop(slot, None)) is not None:
                self._budget.free(item.held)
            self.drop([slot], DropReason.DECODE_FAILED)

    async def _store(self, chosen: Chosen, timestamp: float, source: Decodes) -> None:
        slot = chosen.slot
        _DECODE.inc()
        try:
            jpeg = await source.decode(chosen.picture, self._facts.quality)
        except CaptureFailure as failure:
            self.decode_failures += 1
            if (withheld := _throttle.allow(str(self._facts.request_id))) is not None:
                log.info(
                    "decode_failed", ingestion_id=str(self._facts.request_id), slot=slot, reason=failure.message,
                    withheld=withheld,
                )  # fmt: skip
            if not self._try_another(slot):
                self.drop([slot], DropReason.DECODE_FAILED)
            return
        finally:
            _DECODE.dec()
            self._decoding.pop(slot, None)
        record = frame_record(self._facts, slot, self._slot_time(slot), timestamp, chosen.picture.packet, jpeg)
        grid_start = datetime.fromtimestamp(self._slot_time(0), UTC)
        del chosen, source  # the picture's whole GOP would stay in memory while it waits for the store
        held = self._budget.hold(len(jpeg.data), partial(self._give_up, slot))
        item = self._items[slot] = PendingFrame(record, jpeg, grid_start, time.monotonic(), held)
        await self._put(item)

    async def _put(self, item: PendingFrame) -> None:
        if not self.rows.away and await self._puts.put(item):
            self._items.pop(item.record.sequence, None)
            self.rows.add(item)
        else:
            self._to_spool(item)

    def _to_spool(self, item: PendingFrame) -> None:
        slot = item.record.sequence
        self._items.pop(slot, None)
        self._stop(slot)
        self._budget.free(item.held)
        self.spool.put(item)

    def _from_spool(self) -> None:
        self.stored += 1

    def _settled(self, item: PendingFrame, outcome: str, held_path: str | None) -> None:
        record = item.record
        if outcome == "condemned":  # the sweeper took the key: the bytes go under a new one
            item.record = with_fresh_key(record)
            self._items[record.sequence] = item
            task = self._tasks[record.sequence] = asyncio.create_task(self._put(item))
            task.add_done_callback(partial(self._done, record.sequence))
            return
        self._budget.free(item.held)
        if outcome == "stored" or (outcome == "exists" and held_path == record.storage_path):
            self.stored += 1
            FRAMES.labels(source="rtsp", outcome="stored").inc()
            CAPTURE_TO_STORED.observe(max(0.0, time.time() - record.timestamp.timestamp()))
            self._on_stored(item.jpeg)
        elif outcome == "refused":
            self.drop([record.sequence], DropReason.SPOOL_FULL)
        else:
            log.info("frame_not_needed", ingestion_id=str(record.request_id), slot=record.sequence, outcome=outcome)
