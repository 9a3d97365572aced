"""event_driven: the slots around capture events are stored, the others are idle.

Capture events come from motion (`motion_watch`) and as triggers (rows that any process may insert). They survive the
death of a process because slots are wanted only after their event's row is committed, as far as the row says that the
event lasts. The next owner reads the rows and knows which slots belong to events (past ones are booked as
lease_lost) and which are idle. Slots that came due before their event was known are filled from the stream's ring, and
taken out of `idle_slots`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from config import RtspSettings
from models.entities import CaptureEvent
from models.values import CaptureParams, EventKind, EventNote
from repositories.captures import EventsAtEnd
from repositories.database import UnitOfWork
from services.rtsp_capture.captures.context import CaptureContext
from services.rtsp_capture.captures.continuous_mode import ContinuousMode
from services.rtsp_capture.captures.motion_watch import MotionWatch
from services.rtsp_capture.captures.slot_filler import SlotFiller
from services.rtsp_capture.frames.slot_ledger import GridPlan
from services.rtsp_capture.grid.event_slots import WantedSlots, event_slots
from services.rtsp_capture.grid.sampler import Chosen, SlotSampler
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.streams.stream import Stream
from utils.logger import get_logger
from utils.metrics import CAPTURE_EVENTS

log = get_logger(__name__)

POLL_OVERLAP = timedelta(seconds=10)  # of two polls for triggers: by so much a database's clock may jump back
MAX_ROLL_SECONDS = 30.0  # pre_roll and post_roll
KNOWN_EVENT_SECONDS = 60.0  # beyond the ring and the rolls within which a committed event is known here
MAX_RECENT = 10_000  # events read at a takeover
HAND_BACK_SECONDS = 1.0  # for past pictures when the capture is handed back
MAX_BACKLOG_PICTURES = 20  # past pictures that wait for their decoding at once: more might wait for RTSP__MAX_LAG
_REORDER_SECONDS = 1.0  # of pictures around a slot that decide what fills it
_BACKLOG_POLL_INTERVAL = 0.05  # seconds, at the end


class TriggerInbox:
    """The triggers of a request that are known. `since`: those committed earlier are known, too."""

    def __init__(self, since: datetime) -> None:
        self.since = since
        self._known: dict[UUID, datetime] = {}

    def take(self, row: CaptureEvent) -> bool:
        """False for one that is known."""
        if row.id in self._known or row.created_at < self.since:
            return False
        self._known[row.id] = row.created_at
        since = max(self.since, row.created_at - POLL_OVERLAP)
        if since > self.since:
            self.since = since
            self._known = {key: at for key, at in self._known.items() if at >= since}
        return True

    @property
    def known(self) -> frozenset[UUID]:
        return frozenset(self._known)


class EventMode(ContinuousMode):
    """The slots of a continuous capture, of which capture events want some."""

    open_until_final = True  # a trigger's pictures are in the stream's ring
    hands_back_first = False  # the next owner's slots reach back

    def __init__(self, context: CaptureContext) -> None:
        super().__init__(context)
        assert context.ledger.plan.wanted is not None
        self._wanted = context.ledger.plan.wanted
        self._inbox = TriggerInbox(context.row.created_at)
        self._committed: deque[tuple[float, float, bool]] = deque()  # events: (from, to, whether it is over)
        self._backlog: list[int] = []  # past slots that are wanted, which are to be found in the ring
        self._watch: MotionWatch | None = None

    @staticmethod
    def grid(params: CaptureParams, settings: RtspSettings) -> GridPlan:
        return GridPlan(params.fps, params.sampling, params.slots, params.max_frames, WantedSlots())

    @property
    def triggers_since(self) -> datetime | None:  # type: ignore[override]
        return self._inbox.since

    def on_trigger(self, row: CaptureEvent) -> None:
        """One that is known is ignored."""
        if self._inbox.take(row):
            clock = self._context.clock
            CAPTURE_EVENTS.labels(kind=EventKind.TRIGGER.value).inc()
            start, end = clock.of_wall(row.from_at.timestamp()), clock.of_wall(row.seen_at.timestamp())
            self._committed.append((start, end, True))
            self._context.control.wake.set()

    # -- while it runs -----------------------------------------------------------------------------------------

    async def lost_slots(self, first: int) -> list[int] | None:
        context, row = self._context, self._context.row
        since = datetime.fromtimestamp(context.ledger.grid.time_of(row.expected) - self._reach, UTC)
        for event in await context.state.run(lambda uow: uow.events.recent(row.id, since, MAX_RECENT)):
            if event.kind == EventKind.TRIGGER.value:
                self._inbox.take(event)
            self._want(event.from_at.timestamp(), event.seen_at.timestamp(), over=True)
        return self._wanted.below(first)

    def begin(self, stream: Stream, since: float) -> Iterable[Picture]:
        motion = self._context.params.motion
        if motion.enabled:
            hz = self._context.deps.settings.MOTION_FPS
            self._watch = MotionWatch(motion, hz, stream.decoder, stream.ring, self._context.control.wake)
        return ()

    def on_picture(self, picture: Picture) -> None:
        if self._watch is not None:
            self._watch.offer(picture, self._context.ledger.grid)

    async def tick(self, filler: SlotFiller) -> None:
        ledger = self._context.ledger
        await self._write_motion()
        self._want_committed()
        self._fill_backlog(filler)
        if ledger.sampler is not None:
            self._wanted.forget(ledger.sampler.next_slot - int(self._reach * ledger.plan.fps) - 1)

    @property
    def _reach(self) -> float:
        """Seconds beyond which no event that comes in reaches back."""
        return self._context.deps.settings.RING_SECONDS + 2 * MAX_ROLL_SECONDS + KNOWN_EVENT_SECONDS

    async def _write_motion(self) -> None:
        if self._watch is None:
            return
        context = self._context
        for note in self._watch.notes(context.clock.now()):
            await context.state.run(partial(self._save, note))
            if note.over:
                CAPTURE_EVENTS.labels(kind=note.kind.value).inc()
                lasted = round(note.seen - note.start, 2)
                log.info("motion", ingestion_id=str(context.row.id), seconds=lasted, score=note.score)
            self._committed.append((note.start, note.seen, note.over))

    async def _save(self, note: EventNote, uow: UnitOfWork) -> None:
        await uow.events.save(self._context.claim, self._context.row.id, note)

    # -- from committed events to slots ------------------------------------------------------------------------

    def _want_committed(self) -> None:
        """The slots of committed events are wanted from now on; past ones are taken out of the ring."""
        ledger = self._context.ledger
        if not ledger.saved:
            return
        while self._committed:
            start, end, over = self._committed.popleft()
            fresh = self._want(start, end, over=over)
            ledger.open(fresh)
            self._backlog += [slot for slot in fresh if slot < ledger.grid.next_slot]
            self._backlog.sort()

    def _want(self, start: float, end: float, *, over: bool) -> list[int]:
        params, grid = self._context.params, self._context.ledger.grid
        start, end = (datetime.fromtimestamp(at, UTC).timestamp() for at in (start, end))  # as its row has them
        window = event_slots(
            start - params.pre_roll, end + params.post_roll, grid_start=grid.grid_start, fps=grid.fps,
            slots=params.slots, at_least_one=over,
        )  # fmt: skip
        return self._wanted.claim(window)

    def _fill_backlog(self, filler: SlotFiller) -> None:
        """Fills past slots, oldest first, as many as there is room for beside the present's pictures."""
        most = min(MAX_BACKLOG_PICTURES, self._context.deps.settings.FRAME_BUFFER_SIZE // 2)
        room = max(1, most) - self._context.frames.pending
        if not self._backlog or room <= 0:
            return
        slots, self._backlog = self._backlog[:room], self._backlog[room:]
        filler.fill(*self._from_ring(filler.stream, slots))
        self._context.control.wake.set()

    def _from_ring(self, stream: Stream, slots: list[int]) -> tuple[list[Chosen], list[int]]:
        """What the grid's sampler chose for the slots when their time came: its choice is made again from the ring."""
        grid, wanted = self._context.ledger.grid, set(slots)
        sampler = SlotSampler(grid.grid_start, grid.fps, self._context.params.sampling, slots[0], slots[-1] + 1)
        margin = 0.5 / grid.fps + _REORDER_SECONDS
        since, until = grid.time_of(slots[0]) - margin, grid.time_of(slots[-1]) + margin
        chosen: list[Chosen] = []
        missed: list[int] = []
        for picture in map(self._context.clock.picture, stream.ring.pictures()):
            if since <= picture.timestamp <= until and picture.usable:
                found, empty = sampler.offer(picture)
                chosen += found
                missed += empty
        found, empty = sampler.expire(float("inf"))
        return [one for one in chosen + found if one.slot in wanted], [one for one in missed + empty if one in wanted]

    # -- the end -----------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        if self._watch is not None:
            await self._watch.close()

    async def finish(self, filler: SlotFiller | None) -> None:
        """Takes in triggers that came meanwhile, and submits all past pictures that capture events want.

        A capture that is handed back has HAND_BACK_SECONDS for it: what is left belongs to events, and the next owner
        books it as lost.
        """
        control, state, row = self._context.control, self._context.state, self._context.row
        await self._write_motion()
        until = time.monotonic() + HAND_BACK_SECONDS
        for trigger in await state.run(lambda uow: uow.events.triggers({row.id: self._inbox.since}, MAX_RECENT)):
            self.on_trigger(trigger)
        self._want_committed()
        while self._backlog and filler is not None and not control.lost:
            if control.given_up and time.monotonic() > until:
                break
            self._fill_backlog(filler)
            await control.sleep(_BACKLOG_POLL_INTERVAL)

    @property
    def due_without_picture(self) -> int:
        """Slots belong to capture events, and without a picture there is none."""
        return 0

    def events_at_end(self, due: int) -> EventsAtEnd | None:
        ledger = self._context.ledger
        return EventsAtEnd(self._inbox.since, self._inbox.known, ledger.opened, ledger.unbooked_idle(due))
