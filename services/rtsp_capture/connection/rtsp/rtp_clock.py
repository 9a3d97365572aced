"""From RTP timestamps to stream times, and to the camera's own clock (RFC 3550, sections 5.1 and 6.4.1). Pure.

Cameras stamp single pictures hours away, and begin a new clock in mid-stream. The stream time goes on through both: one
picture that does not fit has no time; where the next one agrees with it, the clock is a new one, and goes on by as many
pictures as fit into the time that has passed here (by that time itself, each new clock would add its packet's jitter).
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise

from services.rtsp_capture.connection.rtsp.rtp import Rtp, SenderReport, ntp_seconds, packet_time, signed32
from services.rtsp_capture.timing.timestamp_source import IN_PACKET

_MAX_BACK = 3.0  # seconds: pictures that are shown before the one that came before them
_MAX_AHEAD = 5.0  # seconds, and as many as have passed
_MAX_REPORT_AGE = 600.0  # seconds of RTP clock between a report and a picture
_KEPT = 16  # stream times that the distance of pictures is learnt from
_MAX_DISTANCE = 12.0  # seconds between pictures


class RtpClock:
    """The clock of one track."""

    def __init__(self, rate: int, capture_time: int | None = None) -> None:
        """`rate`: ticks a second; `capture_time`: the id of the header extension abs-capture-time."""
        self._rate = rate
        self._capture_time = capture_time
        self._last: tuple[int, float, float] | None = None  # timestamp, stream time, receipt
        self._odd: tuple[int, float] | None = None  # timestamp and receipt of a picture that did not fit
        self._report: SenderReport | None = None
        self._shown: deque[float] = deque(maxlen=_KEPT)  # stream times of the last pictures

    @property
    def distance(self) -> float:
        """Seconds from one picture to the next, in the order of showing; 0 while unknown."""
        steps = sorted(b - a for a, b in pairwise(sorted(self._shown)) if 0.001 < b - a < _MAX_DISTANCE)
        return steps[(len(steps) - 1) // 2] if steps else 0.0

    def _passed(self, received: float) -> float:
        """Seconds of stream time from the last picture to one that came now and that another clock has stamped."""
        assert self._last is not None
        _, at, then = self._last
        passed, distance = max(0.0, received - then), self.distance
        if not distance:
            return passed
        return max(max(1, round(passed / distance)) * distance, max(self._shown) + distance - at)

    def time_of(self, timestamp: int, received: float) -> float | None:
        """The stream time of a picture in seconds, 0 at the first; None for one that does not fit."""
        if self._last is None:
            self._last = (timestamp, 0.0, received)
            self._shown.append(0.0)
            return 0.0
        before, at, then = self._last
        step = self._step(before, then, timestamp, received)
        if step is None:
            odd, self._odd = self._odd, (timestamp, received)
            if odd is None or (since := self._step(*odd, timestamp, received)) is None:
                return None
            self._report = None
            step = self._passed(odd[1]) + since
        self._odd = None
        self._last = (timestamp, at + step, received)
        self._shown.append(at + step)
        return at + step

    def _step(self, before: int, then: float, timestamp: int, received: float) -> float | None:
        step = signed32(timestamp - before) / self._rate
        return step if -_MAX_BACK < step < _MAX_AHEAD + 2 * max(0.0, received - then) else None

    def restart(self, timestamp: int, received: float) -> None:
        """A new source (SSRC) begins with this timestamp."""
        self._report = self._odd = None
        if self._last is not None:
            _, at, then = self._last
            if self._step(self._last[0], then, timestamp, received) is None:
                # As if the picture before had been stamped by the new clock.
                self._last = ((timestamp - round(self._passed(received) * self._rate)) & 0xFFFFFFFF, at, then)

    def report(self, report: SenderReport) -> None:
        """A sender report of the track's source; one without a clock says nothing (section 6.4.1)."""
        if report.ntp:
            self._report = report

    def camera_time(self, packet: Rtp) -> tuple[float | None, int | None]:
        """The camera's clock at the picture, seconds since 1970, and what it is known by.

        That is the newest report's NTP time, or IN_PACKET.
        """
        if packet.profile >= 0 and (told := packet_time(packet, self._capture_time)) is not None:
            return told, IN_PACKET
        if self._report is None:
            return None, None
        since = signed32(packet.timestamp - self._report.timestamp) / self._rate
        if abs(since) > _MAX_REPORT_AGE:
            return None, None
        return ntp_seconds(self._report.ntp) + since, self._report.ntp
