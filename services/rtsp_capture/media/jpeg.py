"""JPEGs: of decoded frames, and those that Motion JPEG cameras made. No state; any thread; no GIL in the long steps.

A JPEG file (JFIF) holds full-range BT.601 YCbCr. Video is mostly limited-range BT.709: both are linear, so planes
are converted to planes, at 4:2:0, without RGB between. Measured at 1080p, CPU: 2.1 ms (BT.709), 1.6 ms (BT.601),
nothing where the stream is full-range BT.601; libswscale took 9-12 ms, and strayed by 1.3 of 255 instead of 0.3.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import cv2
import numpy as np
import simplejpeg
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from models.values import Integrity
from services.quality.measures import Measures, measure
from services.rtsp_capture.media.packets import Jpeg
from utils.exceptions import CaptureFailure

Plane = NDArray[np.uint8]
# Weights of red and blue by matrix_coefficients (ITU-T H.273, table 4); 5 and 6 are the two namings of BT.601, and RGB
# (0) is made into it.
_BT601 = (0.299, 0.114)
_BT709 = (0.2126, 0.0722)
_WEIGHTS = {0: _BT601, 1: _BT709, 4: (0.30, 0.11), 5: _BT601, 6: _BT601, 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
_PLANAR = ("yuv420p", "yuvj420p")  # what needs no conversion but that of colours; others go by libswscale first
HD = 720  # lines
_MEASURED = 480  # points of width, at least, of what a received picture's quality is measured on
_SOI, _EOI, _SOS, _DHT, _APP0 = b"\xff\xd8", b"\xff\xd9", 0xDA, 0xC4, 0xE0
_NO_LENGTH = frozenset((0x01, *range(0xD0, 0xDA)))  # markers without a segment


def _jpeg(
    data: bytes, width: int, height: int, luma: Plane, integrity: Integrity = Integrity.VERIFIED
) -> Jpeg:  # fmt: skip
    silent = integrity is Integrity.UNKNOWN
    measures = _measured(luma, width, height)
    return Jpeg(data, width, height, hashlib.sha256(data).hexdigest(), integrity, silent=silent, measures=measures)


def _measured(luma: Plane, width: int, height: int) -> Measures | None:
    """For the frame's quality, which costs no frame: None where it fails."""
    try:
        return measure(luma, width, height)
    except (cv2.error, ValueError, MemoryError):
        return None


# -- decoded frames ----------------------------------------------------------------------------------------------


def encode_jpeg(frame: Any, quality: int, integrity: Integrity = Integrity.VERIFIED) -> Jpeg:
    """Of a decoded av.VideoFrame, 4:2:0, `quality` 50-100; an odd last row or column is left out.

    A stream that names no matrix is taken as BT.709 from 720 lines up, else BT.601, as players do.
    """
    weights = _WEIGHTS.get(int(frame.colorspace), _BT709 if frame.height >= HD else _BT601)
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    width, height = frame.width - frame.width % 2, frame.height - frame.height % 2
    if frame.format.name not in _PLANAR:  # 4:2:2, 4:4:4, more than 8 bits: subsampled only, colours as they are
        colour_range = ColorRange.JPEG if full else ColorRange.MPEG
        frame = VideoReformatter().reformat(
            frame, format="yuv420p", src_colorspace=5, dst_colorspace=5,
            src_color_range=colour_range, dst_color_range=colour_range, threads=1,
        )  # fmt: skip
    luma, cb, cr = (
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: height // part, : width // part]
        for plane, part in zip(frame.planes, (1, 2, 2), strict=True)
    )
    if not full or weights != _BT601:
        luma, cb, cr = to_jfif(luma, cb, cr, weights, full=full)
    planes = [np.ascontiguousarray(plane) for plane in (luma, cb, cr)]
    return _jpeg(simplejpeg.encode_jpeg_yuv_planes(*planes, quality), width, height, planes[0], integrity)


@cache
def _matrix(weights: tuple[float, float]) -> NDArray[np.float64]:
    """From Y'CbCr by other weights to BT.601's; luma from 0 to 1, chroma from -0.5 to 0.5."""

    def from_rgb(red: float, blue: float) -> NDArray[np.float64]:
        luma = np.array([red, 1 - red - blue, blue])
        return np.stack([luma, (np.eye(3)[2] - luma) / (2 - 2 * blue), (np.eye(3)[0] - luma) / (2 - 2 * red)])

    return np.asarray(from_rgb(*_BT601) @ np.linalg.inv(from_rgb(*weights)))


def to_jfif(luma: Plane, cb: Plane, cr: Plane, weights: tuple[float, float], *, full: bool) -> tuple[Plane, Plane, Plane]:
    """4:2:0 planes in full-range BT.601. `full`: whether they are full-range already."""
    gain, offset, chroma_gain = (1.0, 0, 1.0) if full else (255 / 219, 16, 255 / 224)
    if weights == _BT601:
        centre = 128 - 128 * chroma_gain
        return (
            _mix(luma, gain, luma, 0.0, -offset * gain),
            _mix(cb, chroma_gain, cb, 0.0, centre),
            _mix(cr, chroma_gain, cr, 0.0, centre),
        )
    # The matrix leaves luma's own weight at 1: what chroma adds to it is a plane of chroma's size, around 128.
    added, blue, red = (
        _mix(cb, row[1] * chroma_gain, cr, row[2] * chroma_gain, 128 - 128 * chroma_gain * (row[1] + row[2]))
        for row in _matrix(weights)
    )
    height, width = luma.shape
    wide = cv2.merge([added, added]).reshape(height // 2, width)  # each value twice: as wide as luma
    out = np.empty((height, width), np.uint8)
    for parity in (0, 1):
        cv2.addWeighted(luma[parity::2], gain, wide, 1.0, -offset * gain - 128, dst=out[parity::2])
    return out, blue, red


def _mix(a: Plane, weight_a: float, b: Plane, weight_b: float, add: float) -> Plane:
    """a * weight_a + b * weight_b + add, rounded, kept within 0 and 255."""
    return np.asarray(cv2.addWeighted(a, weight_a, b, weight_b, add), np.uint8)


# -- Motion JPEG -------------------------------------------------------------------------------------------------


def received_jpeg(data: bytes) -> Jpeg:
    """A camera's own picture, its bytes unchanged, once its whole scan has been read (at a part of its size).

    Where it names no Huffman tables (Motion JPEG may leave out the standard ones, RFC 2435 does) they are put in.
    Raises CaptureFailure decode_failed: cut off, damaged, or two fields in one (AVI1), which no viewer shows whole.
    """
    end = data.rfind(_EOI)
    if not data.startswith(_SOI) or end < 0:
        raise _failed("The picture is cut off.")
    data = data[: end + 2]  # what comes after is padding
    tables, scan = _segments(data)
    if data.find(_SOI, scan) >= 0 and data.find(_EOI, scan) < end:
        raise _failed("The camera sends two interlaced fields as one picture.")
    if not tables:
        data = data[:scan] + standard_tables() + data[scan:]
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        least = max(-(-width // 8), min(width, _MEASURED))
        grey = simplejpeg.decode_jpeg(data, "GRAY", min_width=least, min_height=-(-height // 8), strict=True)
    except ValueError:
        raise _failed("The picture's data is damaged.") from None
    return _jpeg(data, width, height, grey[:, :, 0])


def _failed(message: str) -> CaptureFailure:
    return CaptureFailure("decode_failed", message)


def _segments(data: bytes) -> tuple[bool, int]:
    """(Whether there are Huffman tables, where the first scan's marker is). Raises CaptureFailure."""
    at, tables = 2, False
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == _SOS:
            return tables, at
        tables |= marker == _DHT
        at += 2 if marker in _NO_LENGTH else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise _failed("The picture's data is damaged.")


@cache
def standard_tables() -> bytes:
    """ISO/IEC 10918-1, K.3, as segments: the encoder writes them into every picture."""
    sample = simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8), 90)
    at, found = 2, b""
    while sample[at + 1] != _SOS:
        size = 2 + int.from_bytes(sample[at + 2 : at + 4], "big")
        found += sample[at : at + size] if sample[at + 1] == _DHT else b""
        at += size
    return found
