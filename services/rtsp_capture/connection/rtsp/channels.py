"""On which channels a session's packets come. Pure."""

from __future__ import annotations

from services.rtsp_capture.connection.rtsp.framing import Data
from services.rtsp_capture.connection.rtsp.rtp import Rtp, parse_rtp
from services.rtsp_capture.connection.rtsp.sdp import VideoTrack


class Channels:
    """`rtp` and `rtcp`: as the camera answered SETUP. Some cameras send on others than they have said: those count, as long
    as nothing came on the right one."""

    def __init__(self, agreed: tuple[int, int], track: VideoTrack) -> None:
        self.rtp, self.rtcp = agreed
        self._track = track
        self._certain = False

    def video(self, data: Data) -> Rtp | None:
        """The track's packet that `data` is; None: it is none."""
        agreed = data.channel == self.rtp
        if not agreed and (self._certain or data.channel == self.rtcp or data.channel % 2):
            return None
        packet = parse_rtp(data.payload)
        if packet is None or packet.payload_type in self._track.others:
            return None
        if not agreed:
            if packet.payload_type != self._track.payload_type:
                return None
            self.rtp, self.rtcp = data.channel, data.channel + 1
        self._certain = True
        return packet
