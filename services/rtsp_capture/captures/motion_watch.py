"""Watches a stream for motion: which pictures are looked at, one at a time, and the events that they make.

While nothing moves only keyframes are decoded, about one a second. When something does, pictures follow at MOTION_FPS or
near it, on the capture's own grid, so that a picture which is stored is decoded once; and those since the last look are
looked at too, for the event began somewhere there. Pictures that come due during a look wait for it, the newest MAX_WAITING
of them: a busy pool makes analysis late by some seconds, which the ring outlasts, and does not make it blind.
Everything here runs on the event loop but the decoding and the arithmetic (the decode pool).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from models.values import EventKind, EventNote, MotionParams, Sampling
from services.rtsp_capture.captures.motion import WIDTH, Look, Luma, MotionEvents, MotionModel
from services.rtsp_capture.grid.sampler import SlotSampler
from services.rtsp_capture.media.gop_buffer import Picture, Ring
from utils.exceptions import CaptureFailure
from utils.ids import new_id
from utils.logger import get_logger
from utils.metrics import MOTION_LOOKS, MOTION_SKIPPED

log = get_logger(__name__)

QUIET = 2.0  # seconds without motion after which an event is over
IDLE_EVERY = 0.75  # seconds that must lie between two keyframes that are looked at while nothing moves
LOOK_BACK = 40  # pictures since the last look that are searched for an event's beginning
MAX_WAITING = 10  # pictures that wait to be looked at
UNSEEN = 3.0  # seconds beyond QUIET without a look after which an event is over: the stream broke
LATE = 30.0  # the same while pictures wait to be looked at: the pool is busy
EXTEND_EVERY = 1.0  # seconds between notes on an event that goes on
MAX_NOTES = 1000  # events that wait to be written; then none begins


class Source(Protocol):
    """What is watched: a Stream."""

    ring: Ring

    async def inspect(self, picture: Picture, width: int, judge: Callable[[Luma], Look]) -> Look:
        """Raises CaptureFailure decode_failed."""


@dataclass(slots=True)
class _Event:
    note: EventNote
    written: float = -math.inf  # what the note before said of how long it lasts


class MotionWatch:
    """One a capture. `on_change` is called when there is something for `notes`."""

    def __init__(self, params: MotionParams, fps: float, source: Source, on_change: Callable[[], None]) -> None:
        """`fps`: how many pictures a second are looked at while something moves."""
        self._fps = fps
        self._source = source
        self._on_change = on_change
        self._model = MotionModel(params.threshold, params.min_area)
        self._events = MotionEvents(QUIET, params.cooldown)
        self._event: _Event | None = None
        self._over: deque[EventNote] = deque()
        self._dense: SlotSampler | None = None
        self._dense_until = -math.inf
        self._looked: tuple[int, float] | None = None  # (segment, when) of the picture looked at last
        self._waiting: deque[Picture] = deque(maxlen=MAX_WAITING)
        self._asked = -math.inf  # when the picture was taken that was put there last
        self._task: asyncio.Task[None] | None = None

    # -- pictures ----------------------------------------------------------------------------------------------

    def offer(self, picture: Picture, grid: SlotSampler) -> None:
        """The stream's next packet, in decoding order; `grid` is the capture's."""
        at = picture.timestamp
        if self._dense is not None and at > self._dense_until:
            self._dense = None
        if self._dense is not None:
            for item in self._dense.offer(picture)[0]:
                self._want(item.picture)
        elif at <= self._dense_until:
            self._dense = _dense_sampler(grid, self._fps, at)
        elif picture.packet.key and not 0 <= at - self._asked < IDLE_EVERY:
            self._want(picture)

    def _want(self, picture: Picture) -> None:
        if len(self._waiting) == MAX_WAITING:
            MOTION_SKIPPED.inc()
        self._waiting.append(picture)
        self._asked = picture.timestamp
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_on(), name="motion")

    async def _look_on(self) -> None:
        while self._waiting:
            try:
                await self._look(self._waiting.popleft())
            except CaptureFailure:
                pass  # a damaged picture tells nothing
            except Exception:  # nothing may end the watching
                log.exception("motion_failed")

    async def _look(self, picture: Picture) -> None:
        packet, at, before = picture.packet, picture.timestamp, self._looked
        if before is None or before[0] != packet.segment:
            self._model.forget()
        look = await self._source.inspect(picture, WIDTH, lambda luma: self._model.look(luma, at))
        MOTION_LOOKS.inc()
        self._looked = (packet.segment, at)
        if not look.moving:
            self._still(at)
            return
        began, area = at, look.area
        first = not self._events.open and self._dense is None
        self._dense_until = max(self._dense_until, at + QUIET)  # at once: the search below takes its time
        if first and before is not None and before[0] == packet.segment:
            began = await self._beginning(before[1], picture)
        self._moved(began, area)
        self._moved(at, area)

    async def _beginning(self, after: float, moving: Picture) -> float:
        """When what moves now was there first, since the last look."""
        for picture in list(_between(self._source.ring, after, moving, 1 / self._fps))[-LOOK_BACK:]:
            try:
                look = await self._source.inspect(picture, WIDTH, self._model.compare)
            except CaptureFailure:
                continue
            MOTION_LOOKS.inc()
            if look.moving:
                return picture.timestamp
        return moving.timestamp

    # -- events ------------------------------------------------------------------------------------------------

    def _moved(self, at: float, area: float) -> None:
        if self._event is None and len(self._over) >= MAX_NOTES:
            return
        if self._events.moved(at, area):
            self._event = _Event(EventNote(new_id(), EventKind.MOTION, at, at, over=False, score=round(area, 4)))
        elif self._event is not None:
            begun = self._event.note
            note = EventNote(
                begun.id, begun.kind, begun.start, self._events.last, over=False, score=round(self._events.score, 4)
            )
            self._event.note = note
        if self._event is not None and self._event.note.seen - self._event.written >= EXTEND_EVERY:
            self._on_change()

    def _still(self, at: float) -> None:
        if self._events.still(at):
            self._end()

    def _end(self) -> None:
        self._events.end()
        if self._event is not None:
            note, self._event = self._event.note, None
            self._over.append(EventNote(note.id, note.kind, note.start, note.seen, over=True, score=note.score))
            self._on_change()

    def notes(self, now: float) -> list[EventNote]:
        """What is to be written: events that are over, and the one that lasts when there is news of it."""
        busy = self._task is not None and not self._task.done()
        self._still(now - (LATE if busy else UNSEEN))
        found = list(self._over)
        self._over.clear()
        event = self._event
        if event is not None and event.note.seen - event.written >= EXTEND_EVERY:
            event.written = event.note.seen
            found.append(event.note)
        return found

    async def close(self) -> None:
        """Looks no more; an event that lasts is over."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._events.open:
            self._end()


def _dense_sampler(grid: SlotSampler, fps: float, at: float) -> SlotSampler:
    """Moments about `fps` times a second from `at` on, so that the grid's slots are among them, or they among the slots."""
    rate = grid.fps * math.ceil(fps / grid.fps) if grid.fps < fps else grid.fps / math.floor(grid.fps / fps)
    first = max(0, math.ceil((at - grid.grid_start) * rate))
    return SlotSampler(grid.grid_start, rate, Sampling.EXACT, first, None)


def _between(ring: Ring, after: float, until: Picture, step: float) -> Iterator[Picture]:
    """Pictures of the ring taken after a moment and before a picture, `step` seconds apart."""
    due = after + step
    for picture in ring.pictures():
        at = picture.timestamp + until.shift
        if picture.usable and due <= at < until.timestamp:
            yield picture
            due = at + step
