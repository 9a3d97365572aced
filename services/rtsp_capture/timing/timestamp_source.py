"""Which clock says when a picture was taken: the camera's where it can be trusted, else receipt. Pure.

Receipt is late by the delay between sensor and socket. So the camera's clock, seen from here, is behind by that delay
when it is right; `offset` is the difference as measured, the delay included.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from models.values import TimestampSource
from services.rtsp_capture.timing.camera_clock import FLOOR, CameraClockMap
from services.rtsp_capture.timing.receipt_clock import ReceiptClock

PLAUSIBLE_DELAY_SECONDS = 0.3  # from sensor to socket that need no explaining: exposure, encoder, B-pictures, network
IN_PACKET = -1  # for `report`: the packet itself says when its picture was taken
_MAX_CAMERA_TIMES = 2000  # packets that may wait for the clock to settle
_TRUST_AGAIN = 0.9  # of the largest offset: below it a clock is trusted again


class Stamp(NamedTuple):
    """A picture's capture time (seconds since the epoch), by whose clock, and how far it may be off (seconds)."""

    at: float
    uncertainty: float
    source: TimestampSource
    camera_time: float | None  # by the camera's clock, whether it is trusted or not
    offset: float | None  # seconds that the camera's clock is ahead of ours; None: not known


class TimestampSelector:
    """Both clocks of one connection. One thread calls it."""

    def __init__(self, frame_duration: float | None, max_offset: float, *, parsed: bool = True) -> None:
        """`parsed` as in `ReceiptClock`."""
        self.receipt = ReceiptClock(frame_duration, parsed=parsed)
        self.camera = CameraClockMap()
        self._max_offset = max_offset
        self._timeline = self.receipt.timeline
        self._camera_times: OrderedDict[float, float] = OrderedDict()  # that packets say themselves, by stream time
        self.trusted = True  # whether the camera's clock, where it is known, is near enough to ours

    def observe(self, pts: float, received: float, camera: float | None = None, report: int | None = None) -> None:
        """Takes in the next packet. `report`: what `camera` is based on; IN_PACKET: the packet says it itself."""
        self.receipt.observe(pts, received)
        if self.receipt.timeline != self._timeline:
            self._timeline = self.receipt.timeline
            self.camera.restart()
        if camera is not None and report == IN_PACKET:
            self._camera_times[pts] = camera
            if len(self._camera_times) > _MAX_CAMERA_TIMES:
                self._camera_times.popitem(last=False)
        elif camera is not None:
            self.camera.observe(pts, camera, received, report)
        elif self.camera.newest is not None:
            self.camera.restart()  # the RTP clock that the reports were about is another now

    def stamp(self, pts: float, shift: float = 0.0) -> Stamp:
        """When the picture was taken. `shift`: seconds from receipt times to wall time (`HostClock.shift`)."""
        host = self.receipt.time_of(pts) + shift
        told = self._camera_times.get(pts)
        camera = told if told is not None else self.camera.time_of(pts)
        source = TimestampSource.RTP if told is not None else TimestampSource.RTCP
        if camera is None:
            return Stamp(host, self.receipt.uncertainty(), TimestampSource.RECEIPT, None, None)
        offset = camera - host
        self.trusted = abs(offset) <= self._max_offset * (1 if self.trusted else _TRUST_AGAIN)
        if not self.trusted:
            return Stamp(host, self.receipt.uncertainty(), TimestampSource.RECEIPT, camera, offset)
        beyond = max(0.0, offset, -offset - PLAUSIBLE_DELAY_SECONDS)
        uncertainty = FLOOR if told is not None else self.camera.uncertainty()
        return Stamp(camera, uncertainty + beyond, source, camera, offset)
