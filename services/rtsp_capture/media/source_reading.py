"""Source pictures opened: the one picture of an MP4 that `source_file` made. For worker processes: a stranger's bits.

The container was written by this service; what is in it was the camera's.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from av.codec.context import ThreadType
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from services.quality.measures import measure, packed
from services.rtsp_capture.media.ffmpeg import FFmpegError, decoder_errors
from services.rtsp_capture.media.jpeg import HD
from services.rtsp_capture.media.luma import whole_luma
from services.rtsp_capture.media.seen import Seen, attach_seen

CHECK = f"{__name__}:check"
# swscale's names of the matrices (`sws_getCoefficients`), by H.273's.
_SWSCALE = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_BT709, _BT601 = 1, 5


class Opened(NamedTuple):
    """`frame`: an av.VideoFrame, None where nothing could be decoded; `whole`: it was decoded without an error."""

    frame: Any
    whole: bool


def is_source(data: bytes) -> bool:
    """Whether a stored picture is one: no picture of an upload has this brand."""
    return data[4:12] == b"ftypisom"


def open_source(data: bytes, max_pixels: int) -> Opened:
    """Of a damaged picture whatever its decoder shows. Raises nothing but MemoryError, whatever the bytes."""
    strict = _decoded(data, max_pixels, {"err_detect": "explode"})
    return strict if strict.whole else Opened(_decoded(data, max_pixels, {}).frame, False)


def _decoded(data: bytes, max_pixels: int, options: dict[str, str]) -> Opened:
    with decoder_errors() as damaged:
        try:
            with av.open(io.BytesIO(data), "r", format="mp4") as file:
                context = file.streams.video[0].codec_context
                context.thread_count, context.thread_type = 1, ThreadType.NONE
                context.options = {"max_pixels": str(max_pixels), **options}
                frames = list(file.decode(video=0))
        except (FFmpegError, IndexError, ValueError):
            return Opened(None, False)
        whole = len(frames) == 1 and not damaged() and not frames[0].is_corrupt
    return Opened(frames[0] if frames else None, whole)


def _full(frame: Any) -> bool:
    """Whether black is 0 and white 255."""
    return bool(frame.color_range == ColorRange.JPEG) or frame.format.name.startswith("yuvj")


def rgb(frame: Any) -> NDArray[np.uint8]:
    """The frame in colour, its matrix and range as the stream says, or as `jpeg.encode_jpeg` takes them to be."""
    matrix = _SWSCALE.get(int(frame.colorspace), _BT709 if frame.height >= HD else _BT601)
    full = _full(frame)
    made = VideoReformatter().reformat(
        frame, format="rgb24", src_colorspace=matrix, dst_colorspace=matrix, threads=1,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG, dst_color_range=ColorRange.JPEG,
    )  # fmt: skip
    return made.to_ndarray().astype(np.uint8, copy=False)


def seen(opened: Opened) -> Seen:
    """What the service is told of it. Measured is what is whole: of anything else the figures are the damage's."""
    if not opened.whole:
        return Seen(False, None)
    frame = opened.frame
    try:
        return Seen(True, packed(measure(whole_luma(frame), frame.width, frame.height, limited=not _full(frame))))
    except (FFmpegError, cv2.error, ValueError):
        return Seen(True, None)  # its quality costs no frame


def check(max_pixels: int, data: bytes) -> tuple[dict[str, Any], bytes]:
    """A job of a worker process: what is seen of the picture."""
    return attach_seen({}, b"", [seen(open_source(bytes(data), max_pixels))])
