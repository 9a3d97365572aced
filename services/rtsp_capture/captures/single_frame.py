"""single_frame: one picture, the next one, the newest of an open stream, or the one nearest to a moment."""

from __future__ import annotations

from models.values import DropReason, Sampling
from services.rtsp_capture.captures.capture import LATE, Capture
from services.rtsp_capture.grid.sampler import Chosen
from services.rtsp_capture.streams.stream import Stream
from utils.exceptions import CaptureFailure

LEAD = 10.0  # seconds before a future frame_timestamp that the stream is opened


class SingleFrameCapture(Capture):
    """Its grid has one slot: wide enough that any picture while it waits belongs to it."""

    @property
    def _sampling(self) -> Sampling:
        return Sampling.EXACT

    @property
    def _grid_fps(self) -> float:
        return 1 / (4 * max(LEAD, self._deps.settings.CAPTURE_TIMEOUT))

    @property
    def _at(self) -> float | None:
        """The moment that was asked for, seconds since the epoch."""
        at = self._params.frame_timestamp
        return at.timestamp() if at is not None else None

    def _first_slot(self) -> int:
        return self._row.stored

    async def _ready(self) -> bool:
        """Waits until a future frame_timestamp is near; False when it is past and no open stream's ring has it."""
        if self._at is None:
            return not self._orders.stopping
        if self._slots.sampler is None:
            self._begin_grid(self._at)
        if self._out_of_ring(self._at):
            self._state.failed(self._why_out_of_ring(), self._time.now())
            self._slots.grid.next_slot = 1
            self._store.drop([0], DropReason.NO_PICTURE)
            return False
        while not self._orders.stopping and (left := self._at - LEAD - self._time.now()) > 0:
            await self._orders.sleep(min(left, 5.0))
        return not self._orders.stopping

    def _out_of_ring(self, at: float) -> bool:
        """Whether a moment was asked for that had passed already, and no open stream's ring reaches back to it."""
        if at >= self._row.created_at.timestamp() or self._slots.done:
            return False
        stream = self._open_stream()
        span = stream.ring.span if stream is not None else None
        return span is None or span[0] > at

    def _open_stream(self) -> Stream | None:
        key = self._key()
        return self._deps.hub.find(key) if key is not None else None

    def _why_out_of_ring(self) -> CaptureFailure:
        stream = self._open_stream()
        if self._params.burst is not None and stream is not None and stream.failure is not None:
            return stream.failure  # the burst tried to open it
        told = "The camera's stream was not open then, or its ring does not reach back so far."
        return CaptureFailure("timestamp_out_of_range", told)

    def _begun(self) -> None:
        assert self._stream is not None
        if self._at is not None:
            for picture in list(self._stream.ring.pictures()):
                self.on_picture(picture)
            return
        newest = self._stream.newest(self._deps.now(), self._params.max_staleness)
        if self._slots.sampler is None and self._stream.live and newest is not None:
            newest = self._time.picture(newest)
            self._begin_grid(newest.timestamp)
            self._last_picture = newest.timestamp
            self._take([Chosen(0, newest)], [])
            self._slots.grid.next_slot = 1

    def _try_another(self, slot: int) -> bool:
        """The next one, until RTSP__CAPTURE_TIMEOUT; not for a moment that was asked for."""
        if self._at is not None or not self._waits_for_frame:
            return False
        self._slots.grid.next_slot = slot
        self._orders.wake.set()
        return True

    @property
    def _waits_for_frame(self) -> bool:
        return not self._orders.stopping and self._time.now() < self._started + self._deps.settings.CAPTURE_TIMEOUT

    def _expire(self, now: float, live: bool) -> None:
        if self._at is None:
            super()._expire(now, live)
        elif not self._slots.done and now >= self._at + self._moment_wait:
            self._take(*self._slots.grid.expire(float("inf")))

    @property
    def _moment_wait(self) -> float:
        """Seconds after a frame_timestamp that a nearer picture may still come; of a burst, one that is near enough."""
        settings, burst = self._deps.settings, self._params.burst
        if burst is None:
            return settings.CAPTURE_TIMEOUT
        return min(settings.CAPTURE_TIMEOUT, burst.tolerance_ms / 1000 + LATE + settings.READ_TIMEOUT)

    @property
    def _first_picture_wait(self) -> float | None:
        return self._deps.settings.CAPTURE_TIMEOUT

    def _over(self) -> bool:
        # Its picture may turn out to be damaged.
        may_want_another = self._at is None and self._slots.done and self._store.in_hand and self._waits_for_frame
        return super()._over() and not may_want_another

    def _due_at_end(self) -> int:
        return 1
