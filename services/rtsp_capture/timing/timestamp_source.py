"""Which clock says when a picture was taken: the camera's where it can be trusted, else receipt. Pure.

Receipt is late by the delay between sensor and socket. So the camera's clock, seen from here, is behind by that delay
when it is right; `offset` is the difference as measured, the delay included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from models.values import TimestampSource
from services.rtsp_capture.timing.camera_clock import CameraClock
from services.rtsp_capture.timing.receipt_clock import ReceiptClock

PLAUSIBLE_DELAY_SECONDS = 0.3  # from sensor to socket that need no explaining: exposure, encoder, B-pictures, network
_TRUST_AGAIN = 0.9  # of the largest offset: below it a clock is trusted again


@dataclass(frozen=True, slots=True)
class Stamp:
    """A picture's capture time (seconds since the epoch), by whose clock, and how far it may be off (seconds)."""

    at: float
    uncertainty: float
    source: TimestampSource
    camera_time: float | None  # by the camera's clock, whether it is trusted or not
    offset: float | None  # seconds that the camera's clock is ahead of ours; None: not known


class TimestampSelector:
    """Both clocks of one connection. `to_wall` brings receipt times to wall time; one thread calls it."""

    def __init__(
        self, frame_duration: float | None, max_offset: float, to_wall: Callable[[float], float] = lambda steady: steady,
        *, parsed: bool = True,
    ) -> None:  # fmt: skip
        """`parsed` as in `ReceiptClock`."""
        self.receipt = ReceiptClock(frame_duration, parsed=parsed)
        self.camera = CameraClock()
        self._max_offset = max_offset
        self._to_wall = to_wall
        self._timeline = self.receipt.timeline
        self.trusted = True  # whether the camera's clock, where it is known, is near enough to ours

    def observe(self, pts: float, received: float, camera: float | None = None, report: int | None = None) -> None:
        """Takes in the next packet."""
        self.receipt.observe(pts, received)
        if self.receipt.timeline != self._timeline:
            self._timeline = self.receipt.timeline
            self.camera.restart()
        if camera is not None:
            self.camera.observe(pts, camera, received, report)

    def stamp(self, pts: float) -> Stamp:
        """When the picture was taken."""
        host = self._to_wall(self.receipt.time_of(pts))
        camera = self.camera.time_of(pts)
        if camera is None:
            return Stamp(host, self.receipt.uncertainty(), TimestampSource.RECEIPT, None, None)
        offset = camera - host
        self.trusted = abs(offset) <= self._max_offset * (1 if self.trusted else _TRUST_AGAIN)
        if not self.trusted:
            return Stamp(host, self.receipt.uncertainty(), TimestampSource.RECEIPT, camera, offset)
        beyond = max(0.0, offset, -offset - PLAUSIBLE_DELAY_SECONDS)
        return Stamp(camera, self.camera.uncertainty() + beyond, TimestampSource.RTCP, camera, offset)
