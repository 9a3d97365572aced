"""From a chosen picture to a committed frame: decode, PUT, row, each stage bounded, the newest winning.

A frame counts as in flight from the moment its slot is due until it is in the row's `stored` or `dropped`. What
cannot be stored at once is tried again until the capture's end and RTSP__STORE_RETRY beyond; beyond
RTSP__FRAME_BUFFER_SIZE pictures of a capture, and RTSP__PICTURE_BUDGET bytes of all, the oldest that wait are dropped
as queue_full. What is being decoded or stored at this moment does not wait: it would be given up half-way for ever.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from models.values import DropReason, FrameRecord
from repositories.database import Database
from services.rtsp_capture.decoder import Jpeg
from services.rtsp_capture.frame_record import CaptureFacts, frame_record
from services.rtsp_capture.packets import Picture
from services.rtsp_capture.picture_budget import Held, PictureBudget
from services.rtsp_capture.sampler import Chosen
from services.storage_service import StorageService, new_attempt, object_key
from utils.exceptions import CaptureFailure, DatabaseUnavailable, IngestionException
from utils.logger import Throttle, get_logger
from utils.metrics import CAPTURE_TO_STORED, FRAMES, FRAMES_DROPPED, QUEUE_DEPTH

log = get_logger(__name__)
_throttle = Throttle(10, time.monotonic)
_PUTS_AT_ONCE = 4  # of one capture
_DECODE, _STORE, _ROWS = (QUEUE_DEPTH.labels(queue=queue) for queue in ("decode", "store", "rows"))
_BATCH = 100  # frames in one transaction
_LEDGER_LAG = 1.0  # seconds that `expected` in the row may lag behind when no frame is committed
_IDLE_LAG = 5.0  # the same while only slots come due that belong to no event, which clients do not see


class Decodes(Protocol):
    """What turns a picture into a JPEG: a Stream."""

    async def decode(self, picture: Picture, quality: int) -> Jpeg:
        """Raises CaptureFailure decode_failed."""


class FrameStore:
    """The frames of one capture on their way into the store. On the event loop."""

    def __init__(
        self,
        facts: CaptureFacts,
        database: Database,
        storage: StorageService,
        *,
        budget: PictureBudget,
        size: int,
        due: Callable[[], int],
        slot_time: Callable[[int], float],
        on_stored: Callable[[Jpeg], None],
        try_another: Callable[[int], bool],
        idle: Callable[[int, int], list[int]],
    ) -> None:
        """`try_another(slot)`: whether the slot, whose picture was damaged, gets another one; `idle(first, stop)`: which
        slots of first .. stop - 1 belong to no event."""
        self._facts = facts
        self._database = database
        self._storage = storage
        self._budget = budget
        self._size = size
        self._due = due
        self._slot_time = slot_time
        self._on_stored = on_stored
        self._try_another = try_another
        self._idle = idle
        self._opened: set[int] = set()  # slots that an event has come to want, which may be booked idle
        self._last_slot = -1  # of those taken in, whose picture is the latest
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by slot, oldest first
        self._decoding: dict[int, None] = {}  # slots whose picture is not decoded yet, oldest first
        self._putting: set[int] = set()  # slots being PUT at this moment
        self._held: dict[int, Held] = {}  # by slot: what the process's budget counts
        self._ready: dict[int, tuple[FrameRecord, Jpeg]] = {}  # by slot: stored objects without a row yet
        self._drops: dict[DropReason, set[int]] = {}
        self._puts = asyncio.Semaphore(min(_PUTS_AT_ONCE, max(1, size - 1)))  # one waits at least
        self._changed = asyncio.Event()
        self._last_timestamp = 0.0
        self._recorded_due = 0
        self._committed_at = 0.0
        self._batch = _BATCH
        self.decode_failures = 0
        self._ending = False
        self.gate = asyncio.Event()  # set once the grid's origin is in the row: frames are numbered by it
        self.stored = 0
        self._committer = asyncio.create_task(self._commit_loop(), name=f"commit-{facts.request_id}")

    def go_on(self, stored: int, last_frame_at: datetime | None, last_slot: int = -1) -> None:
        """Continues what an earlier owner stored: times go on from its last one, which filled `last_slot`."""
        self.stored = stored
        self._last_timestamp = last_frame_at.timestamp() if last_frame_at is not None else 0.0
        self._last_slot = last_slot

    def booked(self, due: int) -> None:
        """The row knows what became of every slot below `due`."""
        self._recorded_due = max(due, self._recorded_due)

    def unbooked_idle(self, due: int) -> list[int]:
        """The idle slots below `due` that the row does not know of yet."""
        return self._idle(self._recorded_due, due)

    @property
    def in_flight(self) -> int:
        """Pictures taken in that are neither stored nor dropped yet."""
        return len(self._tasks.keys() | self._ready.keys())  # a slot may be in both for a moment

    def submit(self, chosen: Chosen, source: Decodes) -> None:
        """Takes a picture in; the oldest that still waits makes room when there are too many."""
        while self.in_flight >= self._size:
            if (slot := self._oldest_waiting()) is None:
                self.drop([chosen.slot], DropReason.QUEUE_FULL)
                return
            # Should the commit of an evicted frame be under way and succeed, its slot has a frame, and the drop
            # is not booked over it.
            if slot in self._tasks:
                self._tasks.pop(slot).cancel()
            self._unready(slot)
            self._free(slot)
            self.drop([slot], DropReason.QUEUE_FULL)
        timestamp = chosen.picture.timestamp
        if chosen.slot > self._last_slot:
            # Never backwards within one capture, whatever the clocks did (invariant 4). A slot of before, which an event
            # reaches back to, has its place by itself: a picture lies within half a slot of its slot's time.
            timestamp = max(timestamp, self._last_timestamp + 1e-6)
            self._last_timestamp, self._last_slot = timestamp, chosen.slot
        self._track(chosen.slot, self._store(chosen, timestamp, source))

    def _oldest_waiting(self) -> int | None:
        """The oldest slot that is neither being decoded nor being PUT."""
        first = next(iter(self._decoding), None)  # a stream's pictures are decoded one by one, in order
        waiting = (slot for slot in self._tasks if slot != first and slot not in self._putting and slot not in self._ready)
        candidates = [slot for slot in (next(waiting, None), next(iter(self._ready), None)) if slot is not None]
        return min(candidates, default=None)

    def _give_up(self, slot: int) -> None:
        """The process holds too many bytes of pictures, and this one has waited longest."""
        self._held.pop(slot, None)
        if slot in self._ready:  # its object is there: only the bytes go
            record, jpeg = self._ready[slot]
            self._ready[slot] = record, replace(jpeg, data=b"")
        elif (task := self._tasks.pop(slot, None)) is not None:
            task.cancel()
            self.drop([slot], DropReason.QUEUE_FULL)

    def _free(self, slot: int) -> None:
        if (held := self._held.pop(slot, None)) is not None:
            self._budget.free(held)

    def _unready(self, slot: int) -> Jpeg | None:
        found = self._ready.pop(slot, None)
        if found is None:
            return None
        _ROWS.dec()
        return found[1]

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

    @property
    def opened(self) -> frozenset[int]:
        """Slots given to `open` that the row does not know of yet."""
        return frozenset(self._opened)

    def touch(self) -> None:
        """Slots came due: the row says so with the next frame, or soon when none comes."""
        due, waited = self._due(), time.monotonic() - self._committed_at
        if due <= self._recorded_due or waited <= _LEDGER_LAG:
            return
        if waited > _IDLE_LAG or len(self.unbooked_idle(due)) < due - self._recorded_due:
            self._changed.set()

    async def drain(self, timeout: float) -> bool:
        """Waits until everything taken in is stored or dropped; False when `timeout` seconds were not enough."""
        deadline = time.monotonic() + timeout
        while self._tasks or self._ready or self._drops or self._opened:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self._tasks:
                await asyncio.wait(self._tasks.values(), timeout=left)
            else:
                self._changed.set()
                await asyncio.sleep(0.01)
        return True

    async def close(self) -> None:
        """Gives up what is still on its way, without booking it: the end of the capture does."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._ending = True
        self._committer.cancel()
        await asyncio.gather(self._committer, return_exceptions=True)
        for slot in list(self._ready):
            self._unready(slot)
        for slot in list(self._held):
            self._free(slot)

    # -- stages ------------------------------------------------------------------------------------------------

    def _track(self, slot: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[slot] = task
        task.add_done_callback(lambda done: self._done(slot, done))

    def _done(self, slot: int, task: asyncio.Task[None]) -> None:
        if self._tasks.get(slot) is task:
            del self._tasks[slot]
            if slot not in self._ready:
                self._free(slot)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("frame_failed", ingestion_id=str(self._facts.request_id), slot=slot, exc_info=error)
            self.drop([slot], DropReason.DECODE_FAILED)

    async def _store(self, chosen: Chosen, timestamp: float, source: Decodes) -> None:
        self._decoding[chosen.slot] = None
        _DECODE.inc()
        try:
            jpeg = await source.decode(chosen.picture, self._facts.quality)
        except CaptureFailure as failure:
            log.info("decode_failed", ingestion_id=str(self._facts.request_id), slot=chosen.slot, reason=failure.message)
            self.decode_failures += 1
            if not self._try_another(chosen.slot):
                self.drop([chosen.slot], DropReason.DECODE_FAILED)
            return
        finally:
            _DECODE.dec()
            self._decoding.pop(chosen.slot, None)
        slot_time = self._slot_time(chosen.slot)
        record = frame_record(self._facts, chosen.slot, slot_time, timestamp, chosen.picture.packet, jpeg)
        del chosen, source  # the picture's whole GOP would stay in memory while it waits for the store
        await self._put(record, jpeg)

    async def _put(self, record: FrameRecord, jpeg: Jpeg) -> None:
        slot = record.sequence
        held = self._held[slot] = self._budget.hold(len(jpeg.data), partial(self._give_up, slot))
        _STORE.inc()
        try:
            async with self._puts:
                await self._again(partial(self._attempt, held, record, jpeg))
        finally:
            _STORE.dec()
        self._ready[slot] = (record, jpeg)
        _ROWS.inc()
        self._changed.set()

    async def _attempt(self, held: Held, record: FrameRecord, jpeg: Jpeg) -> None:
        async with self._budget.turn(held):
            self._putting.add(record.sequence)
            try:
                await self._storage.put(record.storage_path, jpeg.data, record.content_type, record.sha256)
            finally:
                self._putting.discard(record.sequence)

    async def _commit_loop(self) -> None:
        await self.gate.wait()
        while not self._ending:
            await self._changed.wait()
            self._changed.clear()
            records, due = [record for record, _ in list(self._ready.values())[: self._batch]], self._due()
            drops = {reason: set(slots) for reason, slots in self._drops.items()}
            opened, idle = frozenset(self._opened), self._idle(self._recorded_due, due)
            if not records and not drops and not opened and due <= self._recorded_due:
                continue
            try:
                recorded = await self._again(partial(self._commit, records, drops, due, opened, idle))
            except Exception:
                log.exception("commit_refused", ingestion_id=str(self._facts.request_id), frames=len(records))
                await self._refused(records)
                continue
            self._recorded_due = max(due, self._recorded_due)
            self._opened -= opened
            self._committed_at = time.monotonic()
            for reason, slots in drops.items():
                self._drops[reason] -= slots
                if not self._drops[reason]:
                    del self._drops[reason]
            if len(records) < len(self._ready):
                self._changed.set()
            outcomes = {item.sequence: item for item in recorded}
            for record in records:
                jpeg = self._unready(record.sequence)
                self._free(record.sequence)
                self._settled(record, jpeg, outcomes[record.sequence].outcome, outcomes[record.sequence].storage_path)

    async def _refused(self, records: list[FrameRecord]) -> None:
        """The database refuses these for good: one by one from now on, so that the one at fault blocks no other."""
        if len(records) == 1:
            self._unready(records[0].sequence)
            self._free(records[0].sequence)
            self.drop([records[0].sequence], DropReason.SPOOL_FULL)
        elif not records:
            await asyncio.sleep(_LEDGER_LAG)
        self._batch = 1
        self._changed.set()

    async def _commit(
        self,
        records: list[FrameRecord],
        drops: dict[DropReason, set[int]],
        due: int,
        opened: frozenset[int],
        idle: list[int],
    ) -> Any:
        if opened:
            async with self._database.unit_of_work() as uow:
                await uow.requests.open_slots(self._facts.request_id, opened)
                return await uow.requests.record(self._facts.request_id, records, drops, due, idle)
        async with self._database.one_statement() as uow:
            return await uow.requests.record(self._facts.request_id, records, drops, due, idle)

    def _settled(self, record: FrameRecord, jpeg: Jpeg | None, outcome: str, held_path: str | None) -> None:
        if outcome == "stored" or (outcome == "exists" and held_path == record.storage_path):
            self.stored += 1
            FRAMES.labels(source="rtsp", outcome="stored").inc()
            CAPTURE_TO_STORED.observe(max(0.0, time.time() - record.timestamp.timestamp()))
            self._on_stored(jpeg or Jpeg(b"", record.width, record.height, record.sha256))
        elif outcome == "condemned" and (jpeg is None or not jpeg.data):  # evicted meanwhile
            self.drop([record.sequence], DropReason.QUEUE_FULL)
        elif outcome == "condemned" and jpeg is not None:  # the sweeper took the key: the bytes go under a new one
            key = object_key(record.camera_id, record.frame_id, record.timestamp, new_attempt(), "jpg")
            self._track(record.sequence, self._put(replace(record, storage_path=key), jpeg))
        else:
            log.info("frame_not_needed", ingestion_id=str(record.request_id), slot=record.sequence, outcome=outcome)

    async def _again(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Runs `work` until it succeeds: a store or database that is away comes back; the capture's end cancels."""
        delay = 0.2
        while True:
            try:
                return await work()
            except IngestionException as error:
                if not error.retryable:
                    raise
                kind = "database" if isinstance(error, DatabaseUnavailable) else "storage"
                if (withheld := _throttle.allow(f"{self._facts.request_id}:{kind}")) is not None:
                    log.warning(
                        "frames_waiting", ingestion_id=str(self._facts.request_id), camera_id=self._facts.camera_id,
                        waiting=self.in_flight, for_=kind, withheld=withheld,
                    )  # fmt: skip
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311
            delay = min(delay * 2, 3.0)
