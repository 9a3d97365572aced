"""single_frame: one picture, the next one, the newest of an open stream, or the one nearest to a moment."""

from __future__ import annotations

from collections.abc import Iterable

from config import RtspSettings
from models.values import CaptureParams, DropReason, Encoding, Sampling
from services.rtsp_capture.captures.camera_stream import open_stream
from services.rtsp_capture.captures.context import CaptureContext
from services.rtsp_capture.captures.mode import PICTURE_LAG_SECONDS, Mode
from services.rtsp_capture.frames.slot_ledger import GridPlan
from services.rtsp_capture.grid.sampler import Choice
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.streams.stream import Stream
from utils.exceptions import CaptureFailure

PROMPT_SECONDS = 1.0  # after a moment for which pictures are taken in as they come
LEAD_SECONDS = 10.0  # before a future frame_timestamp that the stream is opened
_POLL_INTERVAL = 5.0  # seconds, while a future frame_timestamp is waited for: the clock may be set meanwhile


def _choice(params: CaptureParams) -> Choice | None:
    if params.pick is None:
        return None
    within = params.pick.within_s
    return Choice(params.pick.of, min(within, params.burst.tolerance_ms / 1000) if params.burst else within)


class SingleFrameMode(Mode):
    """Its grid has one slot: wide enough that any picture while it waits belongs to it."""

    min_due = 1

    def __init__(self, context: CaptureContext) -> None:
        super().__init__(context)
        at = context.params.frame_timestamp
        self._moment = at.timestamp() if at is not None else None  # that was asked for, seconds since the epoch
        self._began = context.clock.now()

    @staticmethod
    def grid(params: CaptureParams, settings: RtspSettings) -> GridPlan:
        sampling = Sampling.KEYFRAME if params.encoding is Encoding.SOURCE else Sampling.EXACT
        fps = 1 / (4 * max(LEAD_SECONDS, settings.CAPTURE_TIMEOUT))
        return GridPlan(fps, sampling, 1, params.max_frames, choice=_choice(params))

    def resume_slot(self, now: float) -> int:
        return self._context.row.stored

    async def prepare(self) -> bool:
        """Waits until a future frame_timestamp is near; False when it is past and no open stream's ring has it."""
        control, ledger, moment = self._context.control, self._context.ledger, self._moment
        if moment is None:
            return not control.stopping
        if ledger.sampler is None:
            ledger.begin_grid(moment)
        if await self._out_of_ring(moment):
            self._context.state.failed(self._why_out_of_ring(), self._context.clock.now())
            ledger.grid.next_slot = 1
            ledger.drop(0, DropReason.NO_PICTURE)
            return False
        while not control.stopping and (left := moment - LEAD_SECONDS - self._context.clock.now()) > 0:
            await control.sleep(min(left, _POLL_INTERVAL))
        return not control.stopping

    async def _out_of_ring(self, moment: float) -> bool:
        """Whether a moment was asked for that had passed already, and no open stream's ring reaches back to it."""
        if moment >= self._context.row.created_at.timestamp() or self._context.ledger.done:
            return False
        stream = open_stream(self._context)
        if stream is not None:
            await stream.catch_up()
        span = stream.ring.span if stream is not None else None
        return span is None or span[0] > moment

    def _why_out_of_ring(self) -> CaptureFailure:
        stream = open_stream(self._context)
        if self._context.params.burst is not None and stream is not None and stream.failure is not None:
            return stream.failure  # the burst tried to open it
        message = "The camera's stream was not open then, or its ring does not reach back so far."
        return CaptureFailure("timestamp_out_of_range", message)

    def prompt(self, now: float) -> float:
        # Of a moment that is now, the answer waits for the picture that comes next.
        return max(0.0, self._moment - now) + PROMPT_SECONDS if self._moment is not None else 0.0

    def begin(self, stream: Stream, since: float) -> Iterable[Picture]:
        context, ledger = self._context, self._context.ledger
        self._began = since
        if self._moment is not None:
            return list(stream.ring.pictures())
        keyframe = context.params.encoding is Encoding.SOURCE
        newest = stream.newest(context.deps.now(), context.params.max_staleness, keyframe=keyframe)
        if ledger.sampler is not None or not stream.live or newest is None:
            return ()
        moment = context.clock.picture(newest).timestamp
        ledger.begin_grid(moment)
        if (choice := ledger.plan.choice) is None:
            return (newest,)
        return [one for one in stream.ring.pictures() if moment - context.clock.picture(one).timestamp <= choice.within]

    @property
    def first_picture_timeout(self) -> float | None:
        return self._context.deps.settings.CAPTURE_TIMEOUT

    def expiry(self, now: float, *, live: bool) -> float:
        if self._moment is not None:
            return float("inf") if now >= self._moment + self._moment_timeout else float("-inf")
        choice, sampler = self._context.ledger.plan.choice, self._context.ledger.sampler
        if choice is not None and sampler is not None and sampler.has_picture:
            # The stream has fallen silent while others were to come that the picture is compared with.
            end = sampler.grid_start + choice.within + PICTURE_LAG_SECONDS
            return float("inf") if now >= end else float("-inf")
        return super().expiry(now, live=live)

    @property
    def _moment_timeout(self) -> float:
        """Seconds after a frame_timestamp that a nearer picture may still come; of a burst, one that is near enough."""
        settings, burst = self._context.deps.settings, self._context.params.burst
        if burst is None:
            return settings.CAPTURE_TIMEOUT
        return min(settings.CAPTURE_TIMEOUT, burst.tolerance_ms / 1000 + PICTURE_LAG_SECONDS + settings.READ_TIMEOUT)

    @property
    def retries_damaged(self) -> bool:
        """With the next picture, until RTSP__CAPTURE_TIMEOUT; not for a moment that was asked for."""
        context = self._context
        in_time = context.clock.now() < self._began + context.deps.settings.CAPTURE_TIMEOUT
        return self._moment is None and not context.control.stopping and in_time
