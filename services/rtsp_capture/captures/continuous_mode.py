"""continuous: every slot of the grid is filled, until the grid's end or a cancel."""

from __future__ import annotations

from collections.abc import Iterable

from config import RtspSettings
from models.values import CaptureParams
from services.rtsp_capture.captures.mode import Mode
from services.rtsp_capture.frames.slot_ledger import GridPlan
from services.rtsp_capture.grid.sampler import Choice
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.streams.stream import Stream

MAX_COMPARED = 5  # pictures of one slot


class ContinuousMode(Mode):
    """On the event loop."""

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
