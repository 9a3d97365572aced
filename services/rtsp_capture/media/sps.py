"""What a sequence parameter set says of its pictures, before a decoder sees it (ITU-T H.264, 7.3.2.1.1 and E.1.1; ITU-T
H.265, 7.3.2.2 and E.2.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from services.rtsp_capture.media.h264 import MAX_SPS_BYTES, Bits, read_sequence

_EXTENDED_SAR = 255
_MAX_SUB_LAYERS = 7
_PIXELS = {  # by aspect_ratio_idc (H.264, table E-1; H.265, table E.1)
    1: (1, 1), 2: (12, 11), 3: (10, 11), 4: (16, 11), 5: (40, 33), 6: (24, 11), 7: (20, 11), 8: (32, 11), 9: (80, 33),
    10: (18, 11), 11: (15, 11), 12: (64, 33), 13: (160, 99), 14: (4, 3), 15: (3, 2), 16: (2, 1),
}  # fmt: skip


class Colour(NamedTuple):
    """By the numbers of ITU-T H.273; 2 is not said. `full`: the range of values."""

    primaries: int
    transfer: int
    matrix: int
    full: bool


@dataclass(frozen=True, slots=True)
class Appearance:
    """How pixels are shown. `pixel`: the shape of one, width to height; None: not said."""

    pixel: tuple[int, int] | None = None
    colour: Colour | None = None


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """`coded`: pixels that a decoder holds, the cropped ones included; `fps`: None where it is not said; `id`: the set's."""

    width: int
    height: int
    coded: int
    fps: float | None = None
    id: int = 0
    appearance: Appearance = Appearance()


def picture_format(codec: str, nal: bytes) -> PictureFormat:
    """Of an SPS with its header; `codec`: h264 or hevc. Raises ValueError for one that makes no sense, or is too large."""
    if len(nal) > MAX_SPS_BYTES:
        raise ValueError("an SPS of so many bytes")
    return _h264(nal) if codec == "h264" else _hevc(nal)


def _h264(nal: bytes) -> PictureFormat:
    bits = Bits(nal[1:])
    sequence = read_sequence(bits)
    chroma, planes, fields = sequence.chroma, sequence.colour_planes, 1 if sequence.frames_only else 2
    if fields == 2:
        bits.u(1)
    bits.u(1)
    coded_width, coded_height = sequence.across * 16, sequence.down * 16 * fields
    left, right, top, bottom = _crop(bits)
    wide = 2 if chroma in (1, 2) and not planes else 1
    high = (2 if chroma == 1 and not planes else 1) * fields
    fps, appearance = None, Appearance()
    try:
        if bits.u(1):
            appearance = _appearance(bits)
            fps = _vui_fps(bits)
    except ValueError:
        pass  # cut off: what was read stands
    return _format(coded_width, coded_height, (left + right) * wide, (top + bottom) * high, fps, sequence.id, appearance)


def _crop(bits: Bits) -> tuple[int, int, int, int]:
    return (bits.ue(), bits.ue(), bits.ue(), bits.ue()) if bits.u(1) else (0, 0, 0, 0)


def _vui_fps(bits: Bits) -> float | None:
    """Of H.264's VUI, after the part that `_appearance` reads."""
    if bits.u(1):
        bits.ue(), bits.ue()
    if not bits.u(1):
        return None
    tick, scale = bits.u(32), bits.u(32)
    fps = scale / (2 * tick) if tick else 0.0
    return fps if 0 < fps < 1000 else None


def _appearance(bits: Bits) -> Appearance:
    """The beginning of the VUI, which both codecs have (H.264, E.1.1; H.265, E.2.1)."""
    pixel, colour = None, None
    if bits.u(1):
        kind = bits.u(8)
        pixel = (bits.u(16), bits.u(16)) if kind == _EXTENDED_SAR else _PIXELS.get(kind)
        pixel = pixel if pixel and all(pixel) else None
    if bits.u(1):
        bits.u(1)
    if bits.u(1):
        bits.u(3)
        full = bool(bits.u(1))
        named = (bits.u(8), bits.u(8), bits.u(8)) if bits.u(1) else (2, 2, 2)  # 2: not said
        colour = Colour(*named, full)
    return Appearance(pixel, colour)


def _hevc(nal: bytes) -> PictureFormat:
    bits = Bits(nal[2:])
    bits.u(4)
    layers = bits.u(3)
    bits.u(1)
    if layers >= _MAX_SUB_LAYERS:
        raise ValueError("so many sub-layers")
    bits.u(88), bits.u(8)
    present = [(bits.u(1), bits.u(1)) for _ in range(layers)]
    if layers:
        bits.u(2 * (8 - layers))
    for profile, level in present:
        bits.u(88 * profile + 8 * level)
    name = bits.ue()
    chroma = bits.ue()
    planes = chroma == 3 and bool(bits.u(1))
    width, height = bits.ue(), bits.ue()
    left, right, top, bottom = _crop(bits)
    wide = 2 if chroma in (1, 2) and not planes else 1
    high = 2 if chroma == 1 and not planes else 1
    appearance = Appearance()
    try:
        if _before_vui(bits, layers) and bits.u(1):
            appearance = _appearance(bits)
    except ValueError:
        pass
    return _format(width, height, (left + right) * wide, (top + bottom) * high, None, name, appearance)


def _before_vui(bits: Bits, layers: int) -> bool:
    """Reads from the bit depths to the VUI (7.3.2.2.1). False for numbers that no stream has."""
    bits.ue(), bits.ue()
    order_bits = bits.ue() + 4
    for _ in range(layers + 1 if bits.u(1) else 1):
        bits.ue(), bits.ue(), bits.ue()
    for _ in range(6):
        bits.ue()
    if bits.u(1) and bits.u(1):
        _skip_scaling(bits)
    bits.u(2)
    if bits.u(1):
        bits.u(8), bits.ue(), bits.ue(), bits.u(1)
    sets, count = bits.ue(), 0
    if sets > 64:
        return False
    for index in range(sets):
        count = _reference_set(bits, index, count)
    if bits.u(1):
        if (pictures := bits.ue()) > 32:
            return False
        for _ in range(pictures):
            bits.u(order_bits + 1)
    bits.u(2)
    return True


def _reference_set(bits: Bits, index: int, before: int) -> int:
    """How many pictures the set names (7.3.7); `before`: the set before it."""
    if index and bits.u(1):
        bits.u(1), bits.ue()
        return sum(bool(bits.u(1) or bits.u(1)) for _ in range(before + 1))
    earlier, later = bits.ue(), bits.ue()
    if earlier + later > 32:
        raise ValueError("a set of so many pictures")
    for _ in range(earlier + later):
        bits.ue(), bits.u(1)
    return earlier + later


def _skip_scaling(bits: Bits) -> None:
    """Scaling lists (7.3.4)."""
    for size in range(4):
        for _ in range(0, 6, 3 if size == 3 else 1):
            if not bits.u(1):
                bits.ue()
                continue
            if size > 1:
                bits.se()
            for _ in range(min(64, 1 << (4 + 2 * size))):
                bits.se()


def _format(
    width: int, height: int, across: int, down: int, fps: float | None, name: int, appearance: Appearance
) -> PictureFormat:
    if not (0 < width <= 65536 and 0 < height <= 65536 and across < width and down < height):
        raise ValueError("no such size")
    return PictureFormat(width - across, height - down, width * height, fps, name, appearance)
