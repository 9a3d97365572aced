"""Small grey pictures of decoded frames, for motion; colour and detail are left out."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from utils.exceptions import CaptureFailure

Luma = NDArray[np.uint8]


def small_luma(frame: Any, width: int) -> Luma:
    """The frame's luma `width` points wide, each the mean of those that it replaces."""
    return shrink(whole_luma(frame), width)


def whole_luma(frame: Any) -> Luma:
    """The frame's luma: of 8-bit planar formats the first plane as it lies (no copy); others are converted."""
    if not frame.format.name.startswith(("yuv4", "yuvj4", "nv1", "gray")) or frame.format.components[0].bits != 8:
        frame = frame.reformat(format="gray")
    plane = frame.planes[0]
    whole = np.frombuffer(plane, np.uint8)[: plane.line_size * frame.height].reshape(frame.height, plane.line_size)
    return whole[:, : frame.width]


def received_luma(data: bytes, width: int) -> Luma:
    """The same of a JPEG. Raises CaptureFailure decode_failed."""
    try:
        grey = simplejpeg.decode_jpeg(data, "GRAY", fastdct=True, fastupsample=True, min_width=width, min_height=1)
    except ValueError:
        raise CaptureFailure("decode_failed", "The picture's data is damaged.") from None
    return shrink(grey[:, :, 0], width)


def shrink(grey: NDArray[Any], width: int) -> Luma:
    """A smaller picture of the same shape; one that is small already stays as it is."""
    height = max(1, round(grey.shape[0] * width / grey.shape[1]))
    if grey.shape[1] <= width:
        return np.ascontiguousarray(grey)
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
