"""From a claim to the capture that it is of."""

from __future__ import annotations

from collections.abc import Callable

from models.entities import CaptureEvent
from models.values import CaptureMode, CaptureParams, Claim
from services.rtsp_capture.captures.capture import Capture, CaptureDeps
from services.rtsp_capture.captures.capture_control import CaptureControl
from services.rtsp_capture.captures.event_capture import EventCapture
from services.rtsp_capture.captures.request_state import RequestState
from services.rtsp_capture.captures.single_frame import SingleFrameCapture
from utils.exceptions import LeaseLost

_KINDS: dict[CaptureMode, type[Capture]] = {
    CaptureMode.SINGLE_FRAME: SingleFrameCapture,
    CaptureMode.CONTINUOUS: Capture,
    CaptureMode.EVENT_DRIVEN: EventCapture,
}


class CaptureJob:
    """Runs one claimed capture; `run` returns when it has ended, was handed back or was lost."""

    def __init__(self, claim: Claim, deps: CaptureDeps, may_act: Callable[[], bool]) -> None:
        """`may_act`: whether the claim's lease holds by this host's own clock."""
        self.claim = claim
        self._deps = deps
        self._orders = CaptureControl(may_act)
        self._events: EventCapture | None = None

    def cancel(self) -> None:
        """The client asked for the end; frames captured before are stored."""
        self._orders.cancelled = True
        self._orders.wake.set()

    def hand_back(self) -> None:
        """The process stops: what is in hand is stored, another process goes on."""
        self._orders.handing_back = True
        self._orders.wake.set()

    def lose(self) -> None:
        """Another owner has a newer epoch."""
        self._orders.lost = True
        self._orders.wake.set()

    def wake(self) -> None:
        """The lease came to be fenced, or is ours again."""
        self._orders.wake.set()

    @property
    def events(self) -> EventCapture | None:
        """The capture, once it runs, when it is one that takes triggers."""
        return self._events

    def trigger(self, row: CaptureEvent) -> None:
        """A trigger of this capture was committed, by whichever process; one that is known already is ignored."""
        if self._events is not None:
            self._events.on_trigger(row)

    async def run(self) -> None:
        """Raises LeaseLost when another process has the capture, DatabaseUnavailable when it could not begin."""
        state = RequestState(self.claim, self._deps.database, self._orders)
        row = await state.run(lambda uow: uow.captures.start(self.claim))
        if row.params is None or row.rtsp_url is None:
            raise LeaseLost
        params = CaptureParams.from_json(row.params)
        if row.cancel_requested_at is not None:
            self._orders.cancelled = True
        capture = _KINDS[params.mode](self.claim, self._deps, self._orders, state, row, params)
        if isinstance(capture, EventCapture):
            self._events = capture
        await capture.run()
