"""What a capture mode decides, and the continuous mode.

A capture runs the same way in every mode: it finds the stream, begins the grid, fills slots, ends. Whatever differs is
in its `Mode`. A new mode is one module with a subclass of `Mode`, and one line in `job.MODES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import datetime

from config import RtspSettings
from models.entities import CaptureEvent
from models.values import CaptureParams
from repositories.captures import EventsAtEnd
from services.rtsp_capture.captures.context import CaptureContext
from services.rtsp_capture.captures.slot_filler import SlotFiller
from services.rtsp_capture.frames.slot_ledger import GridPlan
from services.rtsp_capture.grid.sampler import Choice
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.streams.stream import Stream
from utils.exceptions import FATAL_BEFORE_FIRST_PICTURE

MAX_COMPARED = 5  # pictures of one slot of a continuous capture
PICTURE_LAG_SECONDS = 1.0  # by which a live stream's pictures may lag behind their time


class Mode(ABC):
    """The mode of one capture. On the event loop. The methods are in the order in which a capture calls them.

    `min_due`: slots that are due when the capture ends, whatever came. `open_until_final`: whether pictures may be wanted
    until the request is final, so that stream and commits are kept until then.
    """

    min_due = 0
    open_until_final = False

    def __init__(self, context: CaptureContext) -> None:
        self._context = context

    @staticmethod
    @abstractmethod
    def grid(params: CaptureParams, settings: RtspSettings) -> GridPlan:
        """The grid of such a capture."""

    @abstractmethod
    def resume_slot(self, now: float) -> int:
        """The first slot that a resumed capture may still fill. `now`: seconds since the epoch."""

    async def lost_slots(self, first: int) -> list[int] | None:
        """Of the slots below `first` those that an earlier owner left open and that were wanted; None: all."""
        return None

    async def prepare(self) -> bool:
        """Called before the stream is acquired; may wait. False when nothing is left to do."""
        return not self._context.control.stopping

    def prompt(self, now: float) -> float:
        """For how many seconds the capture wants packets as soon as they come, at its beginning."""
        return 0.0

    def begin(self, stream: Stream, since: float) -> Iterable[Picture]:
        """The stream is listened to from now on. Returns the pictures it has already that the capture begins with.

        `since`: when the capture began, seconds since the epoch.
        """
        return ()

    @property
    def hands_back_first(self) -> bool:
        """Whether the next owner may begin before the pictures of this one are stored: they have slots of their own."""
        return False

    @property
    def opens_at_once(self) -> bool:
        """Whether a capture that goes on here wants its stream at once, whatever `prepare` will say."""
        return False

    @property
    @abstractmethod
    def first_picture_timeout(self) -> float | None:
        """Seconds that the capture waits for its first picture; None: until cancelled."""

    @property
    def fatal_before_first_picture(self) -> frozenset[str]:
        """The failures that end the capture at once while no picture has come."""
        return FATAL_BEFORE_FIRST_PICTURE

    def on_picture(self, picture: Picture) -> None:  # noqa: B027
        """A usable picture came, in decoding order, its time on the capture's clock; the grid has begun."""

    async def tick(self, filler: SlotFiller) -> None:  # noqa: B027
        """Called every capture.TICK_INTERVAL, and whenever something happened."""

    def expiry(self, now: float, *, live: bool) -> float:
        """Slots whose time lies before this moment get no picture any more. Seconds since the epoch."""
        # A silent stream is live until RTSP__READ_TIMEOUT says otherwise; only then it is known why slots are empty.
        return now - PICTURE_LAG_SECONDS - self._context.deps.settings.READ_TIMEOUT if live else now

    @property
    def retries_damaged(self) -> bool:
        """Whether a slot whose picture is damaged gets another picture."""
        return False

    async def stop(self) -> None:  # noqa: B027
        """The capture ends: no picture comes any more."""

    async def finish(self, filler: SlotFiller | None) -> None:  # noqa: B027
        """Submits what is still wanted of the past. `filler`: None when the stream was not acquired."""

    @property
    def due_without_picture(self) -> int:
        """How many slots are due when the capture ends and no picture ever came."""
        return self.min_due

    def events_at_end(self, due: int) -> EventsAtEnd | None:
        """What the capture's last transaction has to know about capture events; None in modes without any."""
        return None

    # -- triggers ----------------------------------------------------------------------------------------------

    triggers_since: datetime | None = None  # those committed earlier are known; None: the mode takes no triggers

    def on_trigger(self, row: CaptureEvent) -> None:  # noqa: B027
        """A trigger of this capture was committed."""


class ContinuousMode(Mode):
    """Every slot of the grid is filled, until the grid's end or a cancel."""

    @property
    def hands_back_first(self) -> bool:
        return self._context.params.max_frames is None

    @property
    def opens_at_once(self) -> bool:
        """Unless the grid's end has passed."""
        slots, origin = self._context.ledger.plan.slots, self._context.row.grid_start
        if slots is None or origin is None:
            return True
        return self._context.clock.now() < origin.timestamp() + slots / self._context.ledger.plan.fps

    def begin(self, stream: Stream, since: float) -> Iterable[Picture]:
        """Where it goes on, pictures of slots still to come may be there: the stream was opened before."""
        sampler, clock = self._context.ledger.sampler, self._context.clock
        if sampler is None:
            return ()
        ring = stream.ring.pictures()
        return [one for one in ring if sampler.slot_of(clock.picture(one).timestamp) >= sampler.next_slot]

    @staticmethod
    def grid(params: CaptureParams, settings: RtspSettings) -> GridPlan:
        pick = params.pick
        choice = Choice(min(pick.of, MAX_COMPARED), min(pick.within_s, 0.5 / params.fps)) if pick is not None else None
        return GridPlan(params.fps, params.sampling, params.slots, params.max_frames, choice=choice)

    def resume_slot(self, now: float) -> int:
        """The slot after now."""
        cancelled, ledger = self._context.row.cancel_requested_at, self._context.ledger
        if cancelled is not None:  # while nobody ran it: what comes due after a cancel is not wanted
            now = min(now, cancelled.timestamp())
        return int((now - ledger.grid.grid_start) * ledger.plan.fps) + 1

    @property
    def first_picture_timeout(self) -> float | None:
        timeout, duration = self._context.deps.settings.CAPTURE_TIMEOUT, self._context.params.duration
        return None if duration is None else max(timeout, duration)

    @property
    def fatal_before_first_picture(self) -> frozenset[str]:
        """Without an end of its own a capture waits for a password to be put right: the stream logs in rarely."""
        fatal = super().fatal_before_first_picture
        return fatal if self._context.params.duration is not None else fatal - {"unauthorized_camera"}

    @property
    def due_without_picture(self) -> int:
        return self._context.ledger.plan.slots or 0
