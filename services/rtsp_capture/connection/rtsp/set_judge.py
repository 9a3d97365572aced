"""Which RTP packets FFmpeg may see: none with a parameter set that would make a decoder take too much. Pure.

A sequence parameter set comes alone, in an aggregate, or, from a hostile camera, behind a start code inside another NAL
unit, where FFmpeg's parser would find it. One that is cut into fragments needs more bytes than any camera's.
"""

from __future__ import annotations

from services.rtsp_capture.connection.rtsp.access_units import H264, HEVC
from services.rtsp_capture.connection.rtsp.rtp import Rtp
from services.rtsp_capture.media.sps import picture_format
from utils.exceptions import CaptureFailure

_START = b"\0\0\1"
_SPS = {"h264": 7, "hevc": 33}


class SetJudge:
    """Of one track."""

    def __init__(self, codec: str, max_pixels: int) -> None:
        """`codec`: h264, hevc, mjpeg; `max_pixels`: RTSP__MAX_PIXELS."""
        self._name, self._max_pixels = codec, max_pixels
        self._codec = {"h264": H264, "hevc": HEVC}.get(codec)
        self._sps = _SPS.get(codec, -1)
        self._mask = 31 if codec == "h264" else 63  # of the kind in a fragment's header
        self._tail = b""  # the last bytes of a fragment

    def judge(self, nal: bytes) -> bool:
        """False for a sequence parameter set that makes no sense. Raises CaptureFailure for one of too many pixels."""
        if self._codec is None or len(nal) <= self._codec.header or self._codec.kind[nal[0]] != self._sps:
            return True
        try:
            coded = picture_format(self._name, nal).coded
        except ValueError:
            return False
        self._bound(coded)
        return True

    def _bound(self, pixels: int) -> None:
        if pixels > self._max_pixels:
            raise CaptureFailure("unsupported_codec", "The camera's pictures have more pixels than RTSP__MAX_PIXELS.")

    def passes(self, packet: Rtp) -> bool:
        """Whether FFmpeg may see the packet. Raises CaptureFailure for pictures of too many pixels."""
        data, at, end = packet.data, packet.start, packet.end
        codec = self._codec
        if codec is None:
            if end - at >= 8:
                self._bound(data[at + 6] * data[at + 7] * 64)
            return True
        if end - at <= codec.header + 1:
            return True
        kind, body = codec.kind[data[at]], at + codec.header
        tail, self._tail = self._tail, b""
        if kind == codec.fragment:
            if data[body] & self._mask == self._sps:
                return False
            self._tail = data[max(body + 1, end - 2) : end]
            joined = tail + data[body + 1 : body + 3] if not data[body] & 0x80 else b""
            return _START not in joined and self._glued(data, body + 1, end)
        if kind == codec.aggregate:
            return self._aggregate(data, body, end)
        first = data.find(_START, at, end)
        return self.judge(data[at : first if first >= 0 else end]) and (first < 0 or self._glued(data, first, end))

    def begins(self, packet: Rtp) -> bool:
        """Whether decoding can begin there: parameter sets, alone or in an aggregate, or a keyframe."""
        codec, data, at, end = self._codec, packet.data, packet.start, packet.end
        if codec is None or end - at <= codec.header + 1:
            return codec is None
        kind = codec.kind[data[at]]
        if kind == codec.fragment:
            kind = data[at + codec.header] & self._mask
        elif kind == codec.aggregate and at + codec.header + 2 < end:
            kind = codec.kind[data[at + codec.header + 2]]
            return kind in codec.before or kind in codec.keys
        return kind in codec.sets or kind in codec.keys or data.find(_START, at, end) >= 0  # several, with start codes

    def _glued(self, data: bytes, at: int, end: int) -> bool:
        """NAL units behind start codes."""
        while (at := data.find(_START, at, end)) >= 0:
            at += 3
            following = data.find(_START, at, end)
            if not self.judge(data[at : following if following >= 0 else end]):
                return False
        return True

    def _aggregate(self, data: bytes, at: int, end: int) -> bool:
        """STAP-A (RFC 6184, section 5.7.1) and AP (RFC 7798, section 4.4.2)."""
        while at + 2 < end:
            size, at = data[at] << 8 | data[at + 1], at + 2
            if not self.judge(data[at : min(at + size, end)]):
                return False
            if not self._glued(data, at, min(at + size, end)):
                return False
            at += size
        return True
