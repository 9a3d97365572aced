"""event_driven: the slots around events are stored, the others are idle.

Events come from motion (`motion_watch`) and as triggers (rows that any process may insert). What makes them hold when a
process dies: slots are wanted only after their event's row is committed, as far as the row says that it lasts. Whoever
takes over reads the rows and knows which slots are in events (those of before are booked as lease_lost) and which are
idle. Slots that came due before their event was known are taken from the stream's ring, and out of `idle_slots`.
"""

from __future__ import annotations

import time
from collections import deque
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from models.entities import CaptureEvent
from models.values import DropReason, EventKind, EventNote, IngestionStatus
from repositories.captures import EventsAtEnd
from repositories.database import UnitOfWork
from services.rtsp_capture.captures.capture import Capture
from services.rtsp_capture.captures.motion_watch import MotionWatch
from services.rtsp_capture.grid.event_slots import WantedSlots, event_slots
from services.rtsp_capture.grid.sampler import Chosen, SlotSampler
from services.rtsp_capture.media.gop_buffer import Picture
from utils.logger import get_logger
from utils.metrics import CAPTURE_EVENTS

log = get_logger(__name__)

OVERLAP = timedelta(seconds=10)  # of two looks for triggers: by so much a database's clock may jump back
MAX_ROLL = 30.0  # seconds (CONTRACT)
REACH = 60.0  # seconds beyond the ring and the rolls within which a committed event is known here
MAX_RECENT = 10_000  # events read at a takeover
HAND_OVER = 1.0  # seconds for pictures of before when the capture is handed back
BACKLOG = 20  # pictures of before that wait for their decoding at once: more might wait for RTSP__MAX_LAG
_REORDER = 1.0  # seconds of pictures around a slot that decide what fills it


class TriggerInbox:
    """Which triggers of a request were taken in. `since`: what was committed earlier is known."""

    def __init__(self, since: datetime) -> None:
        self.since = since
        self._known: dict[UUID, datetime] = {}

    def take(self, row: CaptureEvent) -> bool:
        """False for one that is known."""
        if row.id in self._known or row.created_at < self.since:
            return False
        self._known[row.id] = row.created_at
        since = max(self.since, row.created_at - OVERLAP)
        if since > self.since:
            self.since = since
            self._known = {key: at for key, at in self._known.items() if at >= since}
        return True

    @property
    def known(self) -> frozenset[UUID]:
        return frozenset(self._known)


class EventCapture(Capture):
    """A capture whose slots are wanted by events."""

    _ends_with_stream = True  # what an event reaches back to is in its ring

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.inbox = TriggerInbox(self._row.created_at)
        self._wanted = WantedSlots()
        self._unclaimed: deque[tuple[float, float, bool]] = deque()  # committed events: (from, to, whether it is over)
        self._backlog: list[int] = []  # wanted slots of before, which are to be found in the ring
        self._watch: MotionWatch | None = None

    def on_trigger(self, row: CaptureEvent) -> None:
        """A trigger's row was committed."""
        if self.inbox.take(row):
            CAPTURE_EVENTS.labels(kind=EventKind.TRIGGER.value).inc()
            self._unclaimed.append(
                (self._time.of_wall(row.from_at.timestamp()), self._time.of_wall(row.seen_at.timestamp()), True)
            )
            self._orders.wake.set()

    # -- pictures ----------------------------------------------------------------------------------------------

    def _begun(self) -> None:
        assert self._stream is not None
        if self._params.motion.enabled:
            hz = self._deps.settings.MOTION_FPS
            self._watch = MotionWatch(self._params.motion, hz, self._stream, self._orders.wake.set)

    def on_picture(self, picture: Picture) -> None:
        super().on_picture(picture)
        if self._watch is not None and self._slots.sampler is not None and picture.usable and not self._orders.stopping:
            self._watch.offer(self._time.picture(picture), self._slots.sampler)

    def _take(self, chosen: list[Chosen], missed: list[int]) -> None:
        super()._take(
            [item for item in chosen if item.slot in self._wanted], [slot for slot in missed if slot in self._wanted]
        )

    def _idle(self, first: int, stop: int) -> list[int]:
        return self._wanted.idle(first, stop)

    # -- events ------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        await self._write()
        await self._write_motion()
        self._claim()
        self._take_backlog()
        if self._slots.sampler is not None:
            self._wanted.forget(self._slots.sampler.next_slot - int(self._reach * self._grid_fps) - 1)
        self._store.rows.touch()

    @property
    def _reach(self) -> float:
        """Seconds beyond which no event that comes in reaches back."""
        return self._deps.settings.RING_SECONDS + 2 * MAX_ROLL + REACH

    async def _write_motion(self) -> None:
        if self._watch is None:
            return
        for note in self._watch.notes(self._time.now()):
            await self._state.run(partial(self._save, note))
            if note.over:
                CAPTURE_EVENTS.labels(kind=note.kind.value).inc()
                lasted = round(note.seen - note.start, 2)
                log.info("motion", ingestion_id=str(self._row.id), seconds=lasted, score=note.score)
            self._unclaimed.append((note.start, note.seen, note.over))

    async def _save(self, note: EventNote, uow: UnitOfWork) -> None:
        await uow.events.save(self._held, self._row.id, note)

    def _claim(self) -> None:
        """The slots of committed events are wanted from now on; those of before are taken out of the ring."""
        if not self._slots.saved:
            return
        while self._unclaimed:
            fresh = self._want(*self._unclaimed.popleft())
            self._store.rows.open(fresh)
            self._backlog += [slot for slot in fresh if slot < self._slots.grid.next_slot]
            self._backlog.sort()

    def _want(self, start: float, end: float, over: bool) -> list[int]:
        grid = self._slots.grid
        start, end = (datetime.fromtimestamp(at, UTC).timestamp() for at in (start, end))  # as its row has them
        window = event_slots(
            start - self._params.pre_roll, end + self._params.post_roll, grid_start=grid.grid_start, fps=grid.fps,
            slots=self._params.slots, at_least_one=over,
        )  # fmt: skip
        return self._wanted.claim(window)

    def _take_backlog(self) -> None:
        """Hands over slots of before, oldest first, as many as there is room for beside the present's pictures."""
        room = max(1, min(BACKLOG, self._deps.settings.FRAME_BUFFER_SIZE // 2)) - self._store.in_hand
        if self._stream is None or not self._backlog or room <= 0:
            return
        slots, self._backlog = self._backlog[:room], self._backlog[room:]
        self._take(*self._from_ring(slots))
        self._orders.wake.set()

    def _from_ring(self, slots: list[int]) -> tuple[list[Chosen], list[int]]:
        """What the grid's sampler chose for them when their time came: its choice made again from the ring."""
        assert self._stream is not None
        grid, wanted = self._slots.grid, set(slots)
        sampler = SlotSampler(grid.grid_start, grid.fps, self._sampling, slots[0], slots[-1] + 1)
        margin = 0.5 / grid.fps + _REORDER
        since, until = grid.time_of(slots[0]) - margin, grid.time_of(slots[-1]) + margin
        chosen: list[Chosen] = []
        missed: list[int] = []
        for picture in map(self._time.picture, self._stream.ring.pictures()):
            if since <= picture.timestamp <= until and picture.usable:
                found, empty = sampler.offer(picture)
                chosen += found
                missed += empty
        found, empty = sampler.expire(float("inf"))
        return [one for one in chosen + found if one.slot in wanted], [one for one in missed + empty if one in wanted]

    # -- taking over, ending -----------------------------------------------------------------------------------

    async def _take_over(self, first: int, at: datetime) -> None:
        row, grid = self._row, self._slots.grid
        since = datetime.fromtimestamp(grid.time_of(row.expected) - self._reach, UTC)
        for event in await self._state.run(lambda uow: uow.events.recent(row.id, since, MAX_RECENT)):
            if event.kind == EventKind.TRIGGER.value:
                self.inbox.take(event)
            self._want(event.from_at.timestamp(), event.seen_at.timestamp(), True)
        lost = self._wanted.below(first)
        await self._state.run(lambda uow: uow.captures.take_over(self._held, first, at, lost))

    async def _end(self) -> None:
        if self._watch is not None:
            await self._watch.close()
        if self._stream is not None:
            self._stream.unlisten(self)
        if not self._orders.lost:
            await self._write()
            await self._write_motion()
            await self._take_rest()
        await super()._end()

    async def _take_rest(self) -> None:
        """Takes in triggers that came in meanwhile, and hands over all that events want of the past.

        A capture that is handed back has a second for it: what is left is in events, and the next owner says it is lost.
        """
        until = time.monotonic() + HAND_OVER
        rows = await self._state.run(lambda uow: uow.events.triggers({self._row.id: self.inbox.since}, MAX_RECENT))
        for row in rows:
            self.on_trigger(row)
        self._claim()
        while self._backlog and self._stream is not None and not self._orders.lost:
            if self._orders.given_up and time.monotonic() > until:
                break
            self._take_backlog()
            await self._orders.sleep(0.05)

    async def _finish(self, wanted: IngestionStatus, due: int, rest: DropReason) -> IngestionStatus:
        patience = self._deps.settings.STORE_RETRY
        while True:
            rows = self._store.rows
            known = EventsAtEnd(self.inbox.since, self.inbox.known, rows.opened, rows.unbooked_idle(due))
            status = await self._write_end(wanted, due, rest, known)
            if status is not IngestionStatus.IN_PROGRESS:
                return status
            await self._take_rest()
            await self._store.drain(patience)
            due = self._due_at_end()
