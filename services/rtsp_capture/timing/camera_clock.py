"""When a picture was taken by the camera's own clock: RTCP sender reports (RFC 3550, section 6.4.1). Pure.

A report ties a moment of the camera's clock to its RTP clock. FFmpeg gives every packet the camera's time by the
newest report; less the packet's stream time this is the report's `base`: the same for all packets of one report, but
for the rounding to microseconds. So a new base is a new report.

A single report is not believed: first ones are sent before the camera has set its clock, or with another RTP origin.
The clock is valid while the two newest agree; what disagrees with its successor is dropped.
"""

from __future__ import annotations

MAX_DISAGREEMENT = 0.020  # seconds by which neighbouring reports may differ, beside what drift explains
STEP_SECONDS = 0.020  # from the base in use to the newest that are stepped; less is slewed
SLEW = 500e-6  # seconds a second
ROUNDING = 1.5e-6  # seconds; microseconds in FFmpeg, and floating point at today's epoch
MAX_AGE_SECONDS = 300.0  # after the last report: then the camera's two clocks may have drifted apart too far
FLOOR = 0.001  # seconds; what happens between sensor and RTP clock inside a camera is not known
DRIFT = 50e-6  # seconds a second that a crystal is off


class CameraClockMap:
    """Maps stream times of one connection to the camera's clock. One thread calls it, packet by packet."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """The stream has a new timeline: what reports said of the old one does not hold."""
        self._low = self._high = 0.0  # the newest report's base, as read
        self._newest: float | None = None
        self._report: int | None = None
        self._reported = 0.0  # when it was first seen (receipt)
        self._agreed = False
        self._differ = 0.0  # seconds between the two newest
        self._base: float | None = None  # the base in use
        self._last = 0.0

    def observe(self, pts: float, camera: float, received: float, report: int | None = None) -> None:
        """The next packet: stream time, the camera's clock, receipt (seconds); the report's own time where it is known."""
        base = camera - pts
        renewed = report is not None and self._report is not None and report != self._report
        self._report = report if report is not None else self._report
        if self._newest is None:
            self._begin(base, received)
        elif renewed or max(self._high, base) - min(self._low, base) > ROUNDING:
            self._differ = abs(base - self._newest)
            self._agreed = self._differ <= MAX_DISAGREEMENT + SLEW * max(0.0, received - self._reported)
            self._begin(base, received)
        else:
            self._low, self._high = min(self._low, base), max(self._high, base)
        if not self._agreed:
            self._base = None
        elif self._base is None or abs(base - self._base) > STEP_SECONDS:
            self._base = base
        else:
            most = SLEW * max(0.0, received - self._last)
            self._base += min(most, max(-most, base - self._base))
        self._last = received

    def _begin(self, base: float, received: float) -> None:
        self._newest = self._low = self._high = base
        self._reported = received

    @property
    def newest(self) -> float | None:
        """The newest report's base, believed or not; None before the first."""
        return self._newest

    def time_of(self, pts: float) -> float | None:
        """The camera's clock at a picture, seconds since the epoch; None while it is not valid."""
        if self._base is None or self._last - self._reported > MAX_AGE_SECONDS:
            return None
        return pts + self._base

    def uncertainty(self) -> float:
        """Seconds between what the reports say, and what may have drifted since the newest."""
        residual = abs(self._newest - self._base) if self._newest is not None and self._base is not None else 0.0
        return FLOOR + max(residual, self._differ) + DRIFT * max(0.0, self._last - self._reported)
