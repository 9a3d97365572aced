"""The slots of a running capture: the sampler's choices on their way into the frame store, and what has come due."""

from __future__ import annotations

from models.values import CaptureParams, DropReason
from services.rtsp_capture.captures.capture_clock import CaptureClock
from services.rtsp_capture.frames.frame_pipeline import FramePipeline
from services.rtsp_capture.grid.sampler import Chosen, SlotSampler
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.streams.stream import Stream


class CaptureSlots:
    """The grid, max_frames, and why a slot has no picture. On the event loop."""

    def __init__(self, params: CaptureParams, time: CaptureClock) -> None:
        self._max_frames = params.max_frames
        self._time = time
        self._surplus_until = float("-inf")
        self.store: FramePipeline
        self.stream: Stream | None = None
        self.sampler: SlotSampler | None = None
        self.saved = False  # the row has the grid's origin

    @property
    def grid(self) -> SlotSampler:
        """The sampler of a grid that has begun."""
        assert self.sampler is not None
        return self.sampler

    @property
    def done(self) -> bool:
        return self.sampler is not None and self.sampler.done

    def due(self) -> int:
        """How many slots have come due."""
        if self.sampler is None:
            return 0
        return self.sampler.next_slot if self.room == 0 else self.sampler.due(self._time.now())

    @property
    def room(self) -> int | None:
        """How many more frames max_frames lets in, counting those on their way; None without a limit."""
        if self._max_frames is None:
            return None
        return max(0, self._max_frames - self.store.stored - self.store.in_flight)

    @property
    def full(self) -> bool:
        """Whether max_frames are stored, or in the spool."""
        return self._max_frames is not None and self.store.stored + len(self.store.spooled) >= self._max_frames

    def offer(self, picture: Picture) -> tuple[list[Chosen], list[int]]:
        """What the picture decides: slots with their pictures, slots without."""
        if self.room == 0:  # max_frames are stored or on their way: no further slot comes due unless one fails
            self._surplus_until = picture.timestamp
            return [], []
        return self.grid.offer(picture)

    def take(self, chosen: list[Chosen], missed: list[int]) -> bool:
        """Pictures go into the store, slots without one are dropped; whether there was anything."""
        assert self.stream is not None
        for item in chosen:
            if self.room == 0:
                self.store.drop([item.slot], DropReason.SURPLUS)
            else:
                self.store.submit(item, self.stream)
        for slot in missed:
            self.store.drop([slot], self._why_missed(slot))
        return bool(chosen or missed)

    def _why_missed(self, slot: int) -> DropReason:
        stream, at = self.stream, self.grid.time_of(slot)
        if at <= self._surplus_until:
            return DropReason.SURPLUS
        first = stream.first_of_segment if stream is not None else None
        if stream is None or not stream.live or first is None:
            return DropReason.CAMERA_DOWN
        return DropReason.CAMERA_DOWN if at < self._time.of(first) else DropReason.NO_PICTURE
