"""From a painted picture to the planes that video codecs take, and how streams name what was done."""

from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from demo.paint import Picture

Matrix = Literal["bt601", "bt709"]

_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}  # of red and blue: BT.601 and BT.709
_NAMES = {"bt601": 6, "bt709": 1}  # ITU-T H.273, tables 2 to 4: the same number for primaries, transfer and matrix


def matrix_of(height: int) -> Matrix:
    """The usual one: BT.709 from 720 lines up."""
    return "bt709" if height >= 720 else "bt601"


@lru_cache
def _transform(matrix: Matrix) -> NDArray[np.float64]:
    red, blue = _WEIGHTS[matrix]
    luma = np.array([blue, 1 - red - blue, red])
    rows = [
        luma * 219 / 255,
        (np.array([1, 0, 0]) - luma) / (2 * (1 - blue)) * 224 / 255,
        (np.array([0, 0, 1]) - luma) / (2 * (1 - red)) * 224 / 255,
    ]
    return np.column_stack([np.array(rows), [16, 128, 128]])


def to_planes(image: Picture, matrix: Matrix) -> NDArray[np.uint8]:
    """Limited-range 4:2:0 planes, one under the other (I420), of a BGR picture with even sides."""
    height, width = image.shape[:2]
    rows = _transform(matrix)
    half = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    planes = [cv2.transform(image, rows[:1]), cv2.transform(half, rows[1:2]), cv2.transform(half, rows[2:])]
    joined = np.concatenate([plane.reshape(-1) for plane in planes])
    return joined.reshape(height * 3 // 2, width).astype(np.uint8, copy=False)


def name_colours(encoder: Any, matrix: Matrix) -> None:
    """Makes a PyAV video encoder write into its stream that it is limited range with this matrix."""
    encoder.color_range = 1
    encoder.colorspace = encoder.color_primaries = encoder.color_trc = _NAMES[matrix]
