"""What a capture mode decides.

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
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.streams.stream import Stream
from utils.exceptions import FATAL_BEFORE_FIRST_PICTURE

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
