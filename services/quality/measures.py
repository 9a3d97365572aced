"""What is measured of one picture, where its pixels are decoded. Pure; any thread or worker process; about 1 ms of CPU.

A measurement is numbers and a small grey view, which the judge compares with the views before: 14 kB of a 16:9 picture, so
that it can be handed from a worker process to the service.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from services.quality.sharpness import WIDTH, Luma, halved, sharpness

VIEW = 160  # points of the view's longer side, as motion detection has it
_DARK, _BRIGHT = 20, 240  # grey levels below and from which a point is nearly black, nearly white
_MAX_SIDE = 65_535


class Measures(NamedTuple):
    """Grey levels are those of full-range luma, 0 to 255."""

    width: int  # of the whole picture
    height: int
    sharpness: float
    brightness: float  # mean
    contrast: float  # standard deviation
    dark_share: float
    bright_share: float
    view: Luma


def measure(luma: Luma, width: int, height: int, *, limited: bool = False) -> Measures:
    """`luma`: the picture, or a smaller one of the same scene; `width` and `height`: of the whole. `limited`: black is 16
    and white 235, as in most video."""
    less = halved(np.asarray(luma), WIDTH)
    sharp = sharpness(less)
    longest = max(less.shape)
    size = max(1, round(less.shape[1] * VIEW / longest)), max(1, round(less.shape[0] * VIEW / longest))
    if longest <= VIEW:
        size = less.shape[1], less.shape[0]
    view = np.asarray(cv2.resize(halved(less, 2 * VIEW), size, interpolation=cv2.INTER_AREA), np.uint8)
    if limited:
        gain = 255 / 219
        view = np.asarray(cv2.addWeighted(view, gain, view, 0.0, -16 * gain), np.uint8)
        sharp *= gain * gain
    mean, spread = cv2.meanStdDev(view)
    counts = np.bincount(view.ravel(), minlength=256)
    return Measures(
        width, height, sharp, float(mean[0, 0]), float(spread[0, 0]),
        float(counts[:_DARK].sum()) / view.size, float(counts[_BRIGHT:].sum()) / view.size, view,
    )  # fmt: skip


def packed(measures: Measures) -> tuple[list[Any], bytes]:
    """The numbers, for JSON, and the view's bytes."""
    return [*measures[:-1], *measures.view.shape], measures.view.tobytes()


def unpacked(numbers: Sequence[Any], view: bytes) -> Measures | None:
    """What `packed` made, from a process that a picture may have taken over; None for what no picture measures."""
    try:
        width, height, *values, rows, columns = numbers
        whole = [int(value) for value in (width, height, rows, columns)]
        floats = [float(value) for value in values]
        sound = all(0 < value <= _MAX_SIDE for value in whole[:2]) and all(0 < value <= VIEW for value in whole[2:])
        if not sound or len(floats) != 5 or not all(0 <= value < 1e6 and math.isfinite(value) for value in floats):
            return None
        seen = np.frombuffer(view, np.uint8).reshape(whole[2], whole[3])
    except (TypeError, ValueError, OverflowError):
        return None
    sharp, brightness, contrast, dark, bright = floats
    return Measures(whole[0], whole[1], sharp, brightness, contrast, dark, bright, seen)
