"""One capture's clock: wall time as this host's clock stood when the capture began here, whatever it is set to meanwhile.

A slot is a time on the grid, so a clock that is set in mid-capture would throw the grid's slots away (ahead), or leave the
capture without pictures until the time has come round again (back). New captures go by the new time.
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
        host.to_wall(host.steady())  # looks whether the clock was set while no stream did
        self._steps = host.steps

    def now(self) -> float:
        return self._host.unset(self._steps)

    def of(self, packet: Packet) -> float:
        """The packet's capture time on this clock; the camera's own does not move with the host's."""
        if packet.source is TimestampSource.RTCP:
            return packet.timestamp
        return packet.timestamp - (packet.steps - self._steps)

    def of_wall(self, at: float) -> float:
        """A time by the wall clock as it is set now (what a client says), on this clock."""
        self._host.to_wall(self._host.steady())  # looks
        return at - (self._host.steps - self._steps)

    def picture(self, picture: Picture) -> Picture:
        """The picture with its time on this clock."""
        shift = self.of(picture.packet) - picture.packet.timestamp
        return replace(picture, shift=shift) if shift else picture
