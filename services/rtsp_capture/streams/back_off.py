"""How long a stream waits before it connects to its camera again. Pure: outcomes in, seconds out.

Cameras lock out who fails to log in too often. So after MAX_REFUSED refused logins in a row the next one comes only after
REFUSED_FACTOR times RTSP__RECONNECT_MAX_DELAY, until a picture has come.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from config import RtspSettings
from utils.exceptions import CaptureFailure

MAX_REFUSED = 3
REFUSED_FACTOR = 10
_REFUSALS = ("unauthorized_camera", "forbidden_camera")


def _jitter() -> float:
    return random.uniform(0.5, 1.0)  # noqa: S311


class BackOff:
    """One a stream."""

    def __init__(self, settings: RtspSettings, share: Callable[[], float] = _jitter) -> None:
        """`share`: of a delay that is waited, from 0.5 to 1: streams that broke together do not come back together."""
        self._first, self._longest, self._share = settings.RECONNECT_DELAY, settings.RECONNECT_MAX_DELAY, share
        self._succeeded = False  # a picture has come, ever
        self.failures = 0  # in a row
        self.refused_logins = 0  # since a picture came

    def failed(self, failure: CaptureFailure, *, packets: bool) -> float:
        """Seconds to wait after a connection that ended so; `packets`: some had come."""
        self._succeeded |= packets
        self.failures = 1 if packets else self.failures + 1
        if packets:
            self.refused_logins = 0
        if failure.code == "unauthorized_camera":
            self.refused_logins += 1
        return self._delay(failure, packets) * self._share()

    def _delay(self, failure: CaptureFailure, packets: bool) -> float:
        if failure.code == "unauthorized_camera" and self.refused_logins >= MAX_REFUSED:
            return self._longest * REFUSED_FACTOR
        if self._succeeded and failure.code in _REFUSALS and not packets:
            return self._longest
        return min(self._longest, self._first * 2.0 ** min(self.failures - 1, 16))

    @property
    def explanation(self) -> str:
        """What a client is told of refused logins; empty while they are few."""
        if self.refused_logins < MAX_REFUSED:
            return ""
        longest = f"{self._longest * REFUSED_FACTOR:g}"
        return f" {self.refused_logins} logins in a row were refused: the next one comes within {longest} s."
