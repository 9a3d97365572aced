"""From a claim to its running capture, and the table of capture modes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from models.entities import CaptureEvent
from models.values import CaptureMode, CaptureParams, Claim
from services.rtsp_capture.captures.capture import Capture
from services.rtsp_capture.captures.capture_control import CaptureControl
from services.rtsp_capture.captures.context import CaptureDeps
from services.rtsp_capture.captures.continuous_mode import ContinuousMode
from services.rtsp_capture.captures.event_mode import EventMode
from services.rtsp_capture.captures.mode import Mode
from services.rtsp_capture.captures.request_state import RequestState
from services.rtsp_capture.captures.single_frame_mode import SingleFrameMode
from utils.exceptions import LeaseLost

MODES: dict[CaptureMode, type[Mode]] = {
    CaptureMode.SINGLE_FRAME: SingleFrameMode,
    CaptureMode.CONTINUOUS: ContinuousMode,
    CaptureMode.EVENT_DRIVEN: EventMode,
}


class CaptureJob:
    """Runs one claimed capture; `run` returns when it has ended, was handed back or was lost."""

    def __init__(
        self, claim: Claim, deps: CaptureDeps, may_act: Callable[[], bool], on_handed_back: Callable[[], None] = lambda: None
    ) -> None:
        """`may_act`: whether the claim's lease holds by this host's own clock. `on_handed_back`: see CaptureControl."""
        self.claim = claim
        self._deps = deps
        self._control = CaptureControl(may_act, on_handed_back)
        self._capture: Capture | None = None  # once it runs

    def cancel(self) -> None:
        """The client asked for the end; frames captured before are stored."""
        self._control.cancelled = True
        self._control.wake.set()

    def hand_back(self) -> None:
        """The process stops: pending frames are stored, another process continues."""
        self._control.handing_back = True
        self._control.wake.set()

    def lose(self) -> None:
        """Another owner has a newer epoch."""
        self._control.lost = True
        self._control.wake.set()

    def wake(self) -> None:
        """The lease has become uncertain, or certain again."""
        self._control.wake.set()

    @property
    def progressed(self) -> bool:
        """Whether it has got so far that it does not end its process at once."""
        return self._capture is not None and self._capture.progressed

    @property
    def triggers_since(self) -> datetime | None:
        """Triggers committed earlier are known; None: the capture takes none, or does not run yet."""
        return self._capture.mode.triggers_since if self._capture is not None else None

    def trigger(self, row: CaptureEvent) -> None:
        """A trigger of this capture was committed, by whichever process; one that is known already is ignored."""
        if self._capture is not None:
            self._capture.mode.on_trigger(row)

    async def run(self) -> None:
        """Raises LeaseLost when another process has the capture, DatabaseUnavailable when it could not begin."""
        state = RequestState(self.claim, self._deps.database, self._control)
        row = await state.run(lambda uow: uow.captures.start(self.claim))
        if row.params is None or row.rtsp_url is None:
            raise LeaseLost
        params = CaptureParams.from_json(row.params)
        if row.cancel_requested_at is not None:
            self._control.cancelled = True
        capture = Capture(self.claim, self._deps, self._control, state, row, params, MODES[params.mode])
        self._capture = capture
        await capture.run()
