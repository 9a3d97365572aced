"""One capture's clock: wall time by this host's clock as it was when the capture began here, even if it is set meanwhile.

A slot is a time on the grid. A clock that is set ahead in mid-capture would lose slots; one that is set back would leave
the capture without pictures until the old time is reached again. New captures use the new time.
"""

from __future__ import annotations

from dataclasses import replace

from models.values import TimestampSource
from services.rtsp_capture.media.gop_buffer import Packet, Picture
from services.rtsp_capture.timing.host_clock import HOST, HostClock


class CaptureClock:
    """Seconds since the epoch."""

    def __init__(self, host: HostClock = HOST) -> None:
        self._host = host
        host.to_wall(host.steady())  # notices whether the clock was set while no stream was open
        self._steps = host.steps

    def now(self) -> float:
        return self._host.unset(self._steps)

    def of(self, packet: Packet) -> float:
        """The packet's capture time on this clock; the camera's own does not move with the host's."""
        if packet.source in (TimestampSource.RTCP, TimestampSource.RTP):
            return packet.timestamp
        return packet.timestamp - (packet.steps - self._steps)

    def of_wall(self, at: float) -> float:
        """A time by the wall clock as it is set now (what a client says), on this clock."""
        self._host.to_wall(self._host.steady())  # notices whether the clock was set
        return at - (self._host.steps - self._steps)

    def picture(self, picture: Picture) -> Picture:
        """The picture with its time on this clock."""
        shift = self.of(picture.packet) - picture.packet.timestamp
        return replace(picture, shift=shift) if shift else picture
