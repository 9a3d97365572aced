"""The status of a stream, for its captures, the cameras resource, the metrics and the log."""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum

from services.rtsp_capture.streams.outages import outages
from utils.camera_series import camera_series
from utils.exceptions import CaptureFailure
from utils.logger import Throttle, get_logger
from utils.metrics import STREAM_FAILURES, STREAMS

log = get_logger(__name__)

STALL_TIMEOUT = 2.0  # seconds without a packet after which a live stream is called stalled
FAILURE_LOG_INTERVAL = 10.0  # seconds between lines about one camera's failures
_throttle = Throttle(FAILURE_LOG_INTERVAL, time.monotonic)


class StreamState(StrEnum):
    CONNECTING = "connecting"
    LIVE = "live"
    STALLED = "stalled"  # open, and nothing comes; after RTSP__READ_TIMEOUT it is opened again
    BACKING_OFF = "backing_off"
    CLOSED = "closed"


class StreamTracker:
    """The state of one stream. Made and used on the event loop, whose timer detects a stall.

    Each change is one line, `stream_state`. Of a camera that fails over and over, one failure in FAILURE_LOG_INTERVAL
    seconds is written, and one stall, with the count of those withheld since; a retry's `connecting` is written only
    after the first failure in a row, and that it is live again, after a failure that was withheld, once it stays so
    for as long.
    """

    def __init__(self, camera_id: str, throttle: Throttle = _throttle) -> None:
        self.state = StreamState.CONNECTING
        self.since = time.time()  # of the state, wall clock
        self.failure: CaptureFailure | None = None  # why it is not live
        self.last_failure: tuple[CaptureFailure, float] | None = None  # the latest ever, and when (wall clock)
        self.refused_logins = 0  # since a picture came
        self.retry_at: float | None = None  # when it is tried again, while it backs off (wall clock)
        self._camera_id = camera_id
        self._throttle = throttle
        self._failures = 0  # in a row
        self._withheld = 0  # failures and stalls that were not logged
        self._stall_logged = True  # whether the latest stall was logged
        self._failure_logged = True  # whether the latest failure was logged
        self._loop = asyncio.get_running_loop()
        self._changed = self._heard = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._later: asyncio.TimerHandle | None = None  # writes what was withheld
        self._closing = False
        STREAMS.labels(state=self.state.value).inc()
        outages.begin(camera_id, self)
        camera_series.entered(camera_id, self, self.state.value)
        self._write(None)

    @property
    def open(self) -> bool:
        """Whether there is a connection, stalled or not."""
        return self.state in (StreamState.LIVE, StreamState.STALLED)

    @property
    def silent(self) -> float:
        """Seconds since packets came, or since it was opened."""
        return self._loop.time() - self._heard

    def connecting(self) -> None:
        self._enter(StreamState.CONNECTING, write=self._failure_logged and self._failures <= 1)

    def live(self) -> None:
        self.failure = None
        self._heard = self._loop.time()
        self._enter(StreamState.LIVE, write=self._failure_logged)
        if not self._failure_logged:
            self._later = self._loop.call_later(FAILURE_LOG_INTERVAL, self._write, StreamState.CONNECTING)
        self._start_stall_timer()

    def heard(self) -> None:
        """Packets came."""
        self._heard = self._loop.time()
        camera_series.heard(self._camera_id)
        self.refused_logins = 0
        if self.state is StreamState.STALLED:
            self._enter(StreamState.LIVE, write=self._stall_logged)
            self._start_stall_timer()

    def failed(
        self, failure: CaptureFailure, failures: int, *, refused_logins: int = 0, retry_in: float | None = None
    ) -> None:
        """`failures` counts those in a row, `refused_logins` those since a picture came. `retry_in`: seconds."""
        self.failure, self._failures = failure, failures
        self.refused_logins = refused_logins
        self.retry_at = time.time() + retry_in if retry_in is not None else None
        self.last_failure = (failure, time.time())
        STREAM_FAILURES.labels(code=failure.code).inc()
        self._failure_logged = self._throttle.allow(self._camera_id) is not None
        self._withheld += not self._failure_logged
        self._enter(StreamState.BACKING_OFF, write=self._failure_logged)

    def closing(self) -> None:
        """From now on silence is no stall."""
        self._closing = True
        self._stop_stall_timer()

    def closed(self) -> None:
        self._enter(StreamState.CLOSED)

    def _start_stall_timer(self) -> None:
        """Checks when the stream would have been silent for STALL_TIMEOUT: one timer, not one a packet."""
        self._stop_stall_timer()
        if self._closing:
            return
        self._timer = self._loop.call_at(self._heard + STALL_TIMEOUT, self._check_stall)

    def _stop_stall_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_stall(self) -> None:
        if self._loop.time() - self._heard < STALL_TIMEOUT:
            self._start_stall_timer()
        else:
            self._timer = None
            withheld = self._throttle.allow(f"{self._camera_id} stalled")
            self._stall_logged = withheld is not None
            self._withheld += withheld or 0
            self._enter(StreamState.STALLED, write=self._stall_logged)

    def _enter(self, state: StreamState, *, write: bool = True) -> None:
        if state is self.state:
            return
        before, self.state = self.state, state
        if state is not StreamState.BACKING_OFF:
            self.retry_at = None
        STREAMS.labels(state=before.value).dec()
        if state is not StreamState.CLOSED:
            STREAMS.labels(state=state.value).inc()
        if self.open or state is StreamState.CLOSED:
            outages.end(self._camera_id, self)
        else:
            outages.begin(self._camera_id, self)
        camera_series.entered(self._camera_id, self, state.value)
        if not self.open:
            self._stop_stall_timer()
            self._forget()
        if write:
            self._write(before)
        self.since, self._changed = time.time(), self._loop.time()

    def _forget(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def _write(self, before: StreamState | None) -> None:
        self._forget()
        facts: dict[str, object] = {}
        if before is not None:
            facts = {"previous": before.value, "after_s": round(self._loop.time() - self._changed, 3)}
        if self.state is StreamState.BACKING_OFF and self.failure is not None:
            facts |= {"code": self.failure.code, "reason": self.failure.message, "failures": self._failures}
            if self.refused_logins:
                facts["refused_logins"] = self.refused_logins
        if self._withheld:
            facts["withheld"], self._withheld = self._withheld, 0
        bad = self.state in (StreamState.STALLED, StreamState.BACKING_OFF)
        write = log.warning if bad else log.info
        write("stream_state", camera_id=self._camera_id, state=self.state.value, **facts)
