"""From a stream's pictures to the slots of a capture: which picture goes to the pipeline, which slot is dropped and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from models.values import DropReason
from services.rtsp_capture.captures.context import CaptureContext
from services.rtsp_capture.grid.sampler import Chosen
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.media.packets import StreamInfo
from services.rtsp_capture.streams.stream import Stream
from utils.exceptions import CaptureFailure


class SlotRules(Protocol):
    """What the capture's mode decides about pictures and slots."""

    def prompt(self, now: float) -> float:
        """For how many seconds the capture wants packets as soon as they come."""

    def begin(self, stream: Stream, since: float) -> Iterable[Picture]:
        """The stream is listened to from now on. Returns the pictures it has already that the capture begins with."""

    def on_picture(self, picture: Picture) -> None:
        """A usable picture came, in decoding order, its time on the capture's clock; the grid has begun."""

    def expiry(self, now: float, *, live: bool) -> float:
        """Slots whose time lies before this moment get no picture any more. Seconds since the epoch."""


class SlotFiller:
    """Listens to the stream of one capture. On the event loop."""

    def __init__(self, context: CaptureContext, rules: SlotRules, stream: Stream, since: float) -> None:
        """`since`: when the capture began; its grid begins with no picture that was taken before."""
        self._context = context
        self._ledger = context.ledger
        self._rules = rules
        self.stream = stream
        self.since = since
        self._surplus_until = float("-inf")  # capture time of the last picture that max_frames left no room for

    async def start(self) -> None:
        await self.stream.catch_up(self._rules.prompt(self._context.clock.now()))
        self.stream.listen(self)
        for picture in self._rules.begin(self.stream, self.since):
            self.on_picture(picture)
        if self.stream.failure is not None and not self.stream.live:
            self.on_failure(self.stream.failure)

    def stop(self) -> None:
        self.stream.unlisten(self)

    # -- from the stream ---------------------------------------------------------------------------------------

    def on_live(self, _info: StreamInfo) -> None:
        self._context.state.stream_opened(self._context.clock.now())
        self._context.control.wake.set()

    def on_failure(self, failure: CaptureFailure) -> None:
        self._context.state.stream_failed(failure, self._context.clock.now(), self.since)
        self._context.control.wake.set()

    def on_picture(self, picture: Picture) -> None:
        context, ledger = self._context, self._ledger
        if context.control.stopping or not picture.usable:
            return
        picture = context.clock.picture(picture)
        at = picture.timestamp
        if ledger.sampler is None:
            if at < self.since or not ledger.plan.may_begin_with(picture):
                return
            ledger.begin_grid(at)
            context.control.wake.set()
        if context.state.picture_came(at):
            context.control.wake.set()
        if ledger.room == 0:  # max_frames are stored or on their way: no further slot comes due unless one fails
            self._surplus_until = at
        else:
            self.fill(*ledger.grid.offer(picture))
        self._rules.on_picture(picture)

    # -- into the pipeline -------------------------------------------------------------------------------------

    def fill(self, chosen: list[Chosen], missed: list[int]) -> None:
        """Pictures go to the pipeline, slots without one are dropped; slots that nobody wants are left out."""
        chosen = [item for item in chosen if self._ledger.wants(item.slot)]
        missed = [slot for slot in missed if self._ledger.wants(slot)]
        for item in chosen:
            if self._ledger.room == 0:
                self._ledger.drop(item.slot, DropReason.SURPLUS)
            else:
                self._context.frames.submit(item, self.stream.decoder)
        for slot in missed:
            self._ledger.drop(slot, self._why_missed(slot))
        if chosen or missed:
            self._context.control.wake.set()

    def expire(self, now: float) -> None:
        """Decides the slots whose time has passed without a picture."""
        self.fill(*self._ledger.grid.expire(self._rules.expiry(now, live=self.stream.live)))

    def _why_missed(self, slot: int) -> DropReason:
        stream, at = self.stream, self._ledger.grid.time_of(slot)
        if at <= self._surplus_until:
            return DropReason.SURPLUS
        first = stream.first_of_segment
        if not stream.live or first is None:
            return DropReason.CAMERA_DOWN
        return DropReason.CAMERA_DOWN if at < self._context.clock.of(first) else DropReason.NO_PICTURE
