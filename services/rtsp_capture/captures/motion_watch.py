"""Watches a stream for motion: which pictures are analysed, one at a time, and the motion events that follow from them.

While nothing moves only keyframes are decoded, about one a second. When something moves, pictures are analysed at about
MOTION_FPS, on the capture's own grid, so that a picture which is stored is decoded once. Pictures since the last analysis
are searched, too, because the motion event began among them. Pictures that come due during an analysis wait, the newest
MAX_WAITING of them: with a busy pool the analysis is late by some seconds, which the ring outlasts, but not blind.
Everything here runs on the event loop except the decoding and the arithmetic (the decode pool).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from models.values import EventKind, EventNote, MotionParams, Sampling
from services.rtsp_capture.captures.motion_events import WIDTH, MotionEvents, MotionResult
from services.rtsp_capture.grid.sampler import SlotSampler
from services.rtsp_capture.media.gop_buffer import Picture, Ring
from utils.exceptions import CaptureFailure
from utils.ids import new_id
from utils.logger import get_logger
from utils.metrics import MOTION_LOOKS, MOTION_SKIPPED

if TYPE_CHECKING:
    from services.rtsp_capture.captures.motion import Luma, MotionModel

log = get_logger(__name__)

QUIET_SECONDS = 2.0  # without motion after which a motion event is over
IDLE_INTERVAL = 0.75  # seconds at least between two keyframes that are analysed while nothing moves
MAX_SEARCHED_PICTURES = 40  # pictures since the last analysis that are searched for a motion event's beginning
MAX_WAITING = 10  # pictures that wait to be analysed
STREAM_LOSS_TIMEOUT = 3.0  # seconds beyond QUIET_SECONDS without an analysis: the stream broke, the motion event is over
BUSY_POOL_TIMEOUT = 30.0  # seconds, the same while pictures wait to be analysed
EXTEND_INTERVAL = 1.0  # seconds between notes on a motion event that continues
MAX_NOTES = 1000  # motion events that wait to be written; then none begins


class LumaSource(Protocol):
    """Hands out a picture's luma: a stream's decoder."""

    async def inspect(self, picture: Picture, width: int, judge: Callable[[Luma], MotionResult]) -> MotionResult:
        """Raises CaptureFailure decode_failed."""


@dataclass(slots=True)
class _MotionEvent:
    note: EventNote
    written: float = -math.inf  # `seen` of the note that was written last


class MotionWatch:
    """One a capture."""

    def __init__(self, params: MotionParams, fps: float, source: LumaSource, ring: Ring, changed: asyncio.Event) -> None:
        """`fps`: how many pictures a second are analysed while something moves. `changed` is set when `notes` has news."""
        self._fps = fps
        self._source = source
        self._ring = ring
        self._changed = changed
        self._params = params
        self._model: MotionModel | None = None  # made with the first picture
        self._motion_events = MotionEvents(QUIET_SECONDS, params.cooldown)
        self._current: _MotionEvent | None = None
        self._ended: deque[EventNote] = deque()
        self._moving_grid: SlotSampler | None = None
        self._moving_until = -math.inf
        self._analysed: tuple[int, float] | None = None  # (segment, capture time) of the last picture
        self._waiting: deque[Picture] = deque(maxlen=MAX_WAITING)
        self._queued_at = -math.inf  # capture time of the picture that was queued last
        self._task: asyncio.Task[None] | None = None

    # -- pictures ----------------------------------------------------------------------------------------------

    def offer(self, picture: Picture, grid: SlotSampler) -> None:
        """The stream's next packet, in decoding order; `grid` is the capture's."""
        at = picture.timestamp
        if self._moving_grid is not None and at > self._moving_until:
            self._moving_grid = None
        if self._moving_grid is not None:
            for item in self._moving_grid.offer(picture)[0]:
                self._queue(item.picture)
        elif at <= self._moving_until:
            self._moving_grid = _moving_sampler(grid, self._fps, at)
        elif picture.packet.key and not 0 <= at - self._queued_at < IDLE_INTERVAL:
            self._queue(picture)

    def _queue(self, picture: Picture) -> None:
        if len(self._waiting) == MAX_WAITING:
            MOTION_SKIPPED.inc()
        self._waiting.append(picture)
        self._queued_at = picture.timestamp
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="motion")

    async def _run(self) -> None:
        while self._waiting:
            try:
                await self._analyse(self._waiting.popleft())
            except CaptureFailure:
                pass  # a damaged picture shows nothing
            except Exception:  # nothing may end the watch
                log.exception("motion_failed")

    async def _analyse(self, picture: Picture) -> None:
        packet, at, before = picture.packet, picture.timestamp, self._analysed
        if self._model is not None and (before is None or before[0] != packet.segment):
            self._model.forget()
        result = await self._source.inspect(picture, WIDTH, lambda luma: self._in_pool().update(luma, at))
        MOTION_LOOKS.inc()
        self._analysed = (packet.segment, at)
        if not result.moving:
            self._still(at)
            return
        began, area = at, result.area
        first = not self._motion_events.open and self._moving_grid is None
        self._moving_until = max(self._moving_until, at + QUIET_SECONDS)  # at once: the search below takes its time
        if first and before is not None and before[0] == packet.segment:
            began = await self._beginning(before[1], picture)
        self._moved(began, area)
        self._moved(at, area)

    def _in_pool(self) -> MotionModel:
        """The model. In the pool, where its import of cv2 and numpy holds up nothing else (media/decoder.py)."""
        if self._model is None:
            from services.rtsp_capture.captures.motion import MotionModel

            self._model = MotionModel(self._params.threshold, self._params.min_area)
        return self._model

    async def _beginning(self, after: float, moving: Picture) -> float:
        """When what moves now was there first, since the last analysis."""
        for picture in list(_between(self._ring, after, moving, 1 / self._fps))[-MAX_SEARCHED_PICTURES:]:
            try:
                result = await self._source.inspect(picture, WIDTH, lambda luma: self._in_pool().compare(luma))
            except CaptureFailure:
                continue
            MOTION_LOOKS.inc()
            if result.moving:
                return picture.timestamp
        return moving.timestamp

    # -- events ------------------------------------------------------------------------------------------------

    def _moved(self, at: float, area: float) -> None:
        if self._current is None and len(self._ended) >= MAX_NOTES:
            return
        if self._motion_events.moved(at, area):
            self._current = _MotionEvent(EventNote(new_id(), EventKind.MOTION, at, at, over=False, score=round(area, 4)))
        elif self._current is not None:
            begun = self._current.note
            last, score = self._motion_events.last, round(self._motion_events.score, 4)
            self._current.note = EventNote(begun.id, begun.kind, begun.start, last, over=False, score=score)
        if self._current is not None and self._current.note.seen - self._current.written >= EXTEND_INTERVAL:
            self._changed.set()

    def _still(self, at: float) -> None:
        if self._motion_events.still(at):
            self._end()

    def _end(self) -> None:
        self._motion_events.end()
        if self._current is not None:
            note, self._current = self._current.note, None
            self._ended.append(EventNote(note.id, note.kind, note.start, note.seen, over=True, score=note.score))
            self._changed.set()

    def notes(self, now: float) -> list[EventNote]:
        """What is to be written: motion events that are over, and the current one when there is news of it."""
        busy = self._task is not None and not self._task.done()
        self._still(now - (BUSY_POOL_TIMEOUT if busy else STREAM_LOSS_TIMEOUT))
        found = list(self._ended)
        self._ended.clear()
        event = self._current
        if event is not None and event.note.seen - event.written >= EXTEND_INTERVAL:
            event.written = event.note.seen
            found.append(event.note)
        return found

    async def close(self) -> None:
        """Ends the analysis, and the current motion event."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._motion_events.open:
            self._end()


def _moving_sampler(grid: SlotSampler, fps: float, at: float) -> SlotSampler:
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
