"""From encoded packets to a JPEG of one picture.

One `PictureDecoder` a stream, reused: it goes on from where it stands when that is on the way to the wanted
picture, else it starts at the keyframe. One thread, no frame threads (they do not help, and H.265 can hang on a
drain with them). Calls come one at a time, from any thread of the decode pool.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import simplejpeg
from av.codec.context import ThreadType
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace

from services.rtsp_capture.luma import Luma, received_luma, small_luma
from services.rtsp_capture.packets import Packet
from services.rtsp_capture.reader import StreamInfo
from utils.exceptions import CaptureFailure

TICKS = 90_000  # RTP's clock for video (RFC 3551, section 5): stream times are fed in its ticks
_TIME_BASE = Fraction(1, TICKS)
# ITU-T H.273, table 4; 5 and 6 are the two namings of BT.601.
_MATRICES = {
    1: Colorspace.ITU709, 4: Colorspace.FCC, 5: Colorspace.ITU601, 6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M, 9: Colorspace.BT2020,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Jpeg:
    """One encoded picture."""

    data: bytes
    width: int
    height: int
    sha256: str  # hex


def _jpeg(data: bytes, width: int, height: int) -> Jpeg:
    return Jpeg(data, width, height, hashlib.sha256(data).hexdigest())


class PictureDecoder:
    """Decodes pictures of one connection. Not to be used by two threads at once."""

    def __init__(self, info: StreamInfo) -> None:
        self._info = info
        self._context: Any = None
        self._fed: list[Packet] = []  # what the decoder was given since its last reset
        self._held: dict[int, Any] = {}  # decoded frames by pts that came out before they were asked for
        self._out = -math.inf  # pts of the frame that came out last

    def decode(self, packets: Sequence[Packet], following: Sequence[Packet], quality: int) -> Jpeg:
        """The last of `packets` (from a keyframe on, decoding order) as JPEG of `quality` (50-100).

        `following` are the next packets, as far as they have come: a decoder holds a picture back while others may
        be shown before it. Raises CaptureFailure decode_failed when the picture does not come out whole.
        """
        if self._info.codec == "mjpeg":
            return self._as_received(packets[-1])
        try:
            frame = self._frame(packets, following)
        except FFmpegError:
            self._reset()
            raise CaptureFailure("decode_failed", "The picture's data is damaged.") from None
        if frame is None or frame.is_corrupt:
            self._reset()
            raise CaptureFailure("decode_failed", "The picture could not be decoded whole.")
        return encode_jpeg(frame, quality)

    def _frame(self, packets: Sequence[Packet], following: Sequence[Packet]) -> Any:
        wanted = _ticks(packets[-1])
        if not self._on_the_way(packets, wanted):
            self._open()
        self._held = {pts: frame for pts, frame in self._held.items() if pts >= wanted}
        for packet in packets[len(self._fed) :]:
            self._feed(packet, wanted)
        for packet in following[max(0, len(self._fed) - len(packets)) :]:
            if wanted in self._held:
                break
            self._feed(packet, wanted)
        if wanted not in self._held:  # a drain gives out what is held back, and the decoder has to begin anew
            self._take(self._context.decode(None), wanted)
            self._fed = []
        return self._held.get(wanted)

    def _on_the_way(self, packets: Sequence[Packet], wanted: int) -> bool:
        """Whether the decoder can go on from where it stands: not past the picture, and in the same group."""
        both = min(len(self._fed), len(packets))
        if not both or self._fed[0] is not packets[0] or self._fed[both - 1] is not packets[both - 1]:
            return False
        return len(self._fed) < len(packets) or wanted in self._held or wanted > self._out

    def _feed(self, packet: Packet, wanted: int) -> None:
        self._fed.append(packet)
        self._take(self._context.decode(_av_packet(packet)), wanted)

    def _take(self, frames: Sequence[Any], wanted: int) -> None:
        for frame in frames:
            if frame.pts is not None:
                self._out = max(self._out, int(frame.pts))
                if frame.pts >= wanted:
                    self._held[int(frame.pts)] = frame

    def _open(self) -> None:
        if self._context is None:
            context = av.CodecContext.create(self._info.codec, "r")
            context.thread_count = 1
            context.thread_type = ThreadType.NONE
            if self._info.extradata:
                context.extradata = self._info.extradata
            self._context = context
        else:
            self._context.flush_buffers()
        self._fed = []
        self._held = {}
        self._out = -math.inf

    def _reset(self) -> None:
        self._context = None
        self._fed = []
        self._held = {}

    def _as_received(self, packet: Packet) -> Jpeg:
        """Motion JPEG: the picture as the camera made it."""
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(packet.data)
        except ValueError:
            raise CaptureFailure("decode_failed", "The picture's data is damaged.") from None
        return _jpeg(packet.data, width, height)

    def luma(self, packets: Sequence[Packet], following: Sequence[Packet], width: int) -> Luma:
        """The last of `packets` as a grey picture `width` wide, for looking at, not for storing. Else as `decode`."""
        if self._info.codec == "mjpeg":
            return received_luma(packets[-1].data, width)
        try:
            frame = self._frame(packets, following)
        except FFmpegError:
            frame = None
        if frame is None or frame.is_corrupt:
            self._reset()
            raise CaptureFailure("decode_failed", "The picture could not be decoded whole.")
        return small_luma(frame, width)


def _ticks(packet: Packet) -> int:
    return round(packet.pts * TICKS)


def _av_packet(packet: Packet) -> Any:
    made = av.Packet(packet.data)
    made.pts = _ticks(packet)
    made.time_base = _TIME_BASE
    made.is_keyframe = packet.key
    return made


def encode_jpeg(frame: Any, quality: int) -> Jpeg:
    """JPEG (JFIF: full-range BT.601 YCbCr, 4:2:0) of a decoded frame; libswscale converts range and matrix.

    A stream that names no matrix is taken as BT.709 from 720 lines up, else BT.601, as players do.
    """
    guess = Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601
    matrix = _MATRICES.get(int(frame.colorspace), guess)
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    width, height = frame.width - frame.width % 2, frame.height - frame.height % 2
    converted = frame.reformat(
        width=width, height=height, format="yuvj420p",
        src_colorspace=matrix, dst_colorspace=Colorspace.ITU601,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG, dst_color_range=ColorRange.JPEG,
    )  # fmt: skip
    planes = converted.to_ndarray()
    luma = planes[:height]
    chroma = planes[height:].reshape(2, height // 2, width // 2)
    data = simplejpeg.encode_jpeg_yuv_planes(luma, chroma[0], chroma[1], quality)
    return _jpeg(data, width, height)
