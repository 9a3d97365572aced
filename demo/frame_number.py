"""A frame number that survives JPEG and video coding: black and white blocks along the bottom edge."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBER_BITS = 20
_CELLS = 32  # across the picture: 2 quiet, 2 sync, 20 number in Gray code, 4 check, 2 sync, 2 quiet


def _cells(number: int) -> list[int]:
    gray = (number ^ (number >> 1)) & ((1 << NUMBER_BITS) - 1)
    code = (gray << 4) | _check(gray)
    bits = [(code >> shift) & 1 for shift in range(NUMBER_BITS + 3, -1, -1)]
    return [0, 0, 1, 0, *bits, 0, 1, 0, 0]


def _check(gray: int) -> int:
    folded = 0b1010
    while gray:
        folded ^= gray & 15
        gray >>= 4
    return folded


def _strip_top(height: int) -> int:
    return height - max(8, height // 30)


def draw_frame_number(image: NDArray[np.uint8], number: int) -> None:
    """Write `number` (modulo 2**20) as black and white blocks along the bottom edge."""
    height, width = image.shape[:2]
    row = np.array([[16 + 219 * bit for bit in _cells(number % (1 << NUMBER_BITS))]], np.uint8)
    line = row[:, np.arange(width) * _CELLS // width].repeat(3).reshape(1, width, 3)
    image[_strip_top(height) :] = line


@cache
def _middles(width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Columns of the middle half of each cell: where it begins, where it ends."""
    cell = width / _CELLS
    begins = (np.arange(_CELLS) * cell + cell / 4).astype(np.intp)
    return begins, np.maximum((np.arange(_CELLS) * cell + cell * 0.75).astype(np.intp), begins + 1)


def read_frame_number(image: NDArray[Any]) -> int | None:
    """The number that `draw_frame_number` wrote, or None when it is not to be read with certainty.

    Works on BGR, RGB and grey pictures and on scaled ones, because all positions are relative to the size.
    """
    height, width = image.shape[:2]
    top = _strip_top(height)
    inset = max(1, (height - top) // 4)
    strip = image[top + inset : height - inset].astype(np.float32)
    line = strip.mean(axis=(0, 2)) if strip.ndim == 3 else strip.mean(axis=0)
    begins, ends = _middles(width)
    sums = np.concatenate(([0.0], np.cumsum(line, dtype=np.float64)))
    levels: list[float] = ((sums[ends] - sums[begins]) / (ends - begins)).tolist()
    dark, light = min(levels), max(levels)
    if light - dark < 80:
        return None
    shares = [(level - dark) / (light - dark) for level in levels]
    if any(0.35 < share < 0.65 for share in shares):
        return None
    bits = [int(share > 0.5) for share in shares]
    if bits[:4] != [0, 0, 1, 0] or bits[-4:] != [0, 1, 0, 0]:
        return None
    code = int("".join(map(str, bits[4:-4])), 2)
    gray = code >> 4
    if _check(gray) != code & 15:
        return None
    number = gray
    for shift in (1, 2, 4, 8, 16):
        number ^= number >> shift
    return number
