"""What a sequence parameter set says of its pictures, before a decoder sees it (ITU-T H.264, 7.3.2.1.1 and E.1.1; ITU-T
H.265, 7.3.2.2).
"""

from __future__ import annotations

from dataclasses import dataclass

from services.rtsp_capture.media.h264 import MAX_SPS_BYTES, Bits, read_sequence

_EXTENDED_SAR = 255
_MAX_SUB_LAYERS = 7


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """`coded`: pixels that a decoder holds, the cropped ones included; `fps`: None where it is not said; `id`: the set's."""

    width: int
    height: int
    coded: int
    fps: float | None = None
    id: int = 0


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
    fps = _frame_rate(bits) if bits.u(1) else None
    return _format(coded_width, coded_height, (left + right) * wide, (top + bottom) * high, fps, sequence.id)


def _crop(bits: Bits) -> tuple[int, int, int, int]:
    return (bits.ue(), bits.ue(), bits.ue(), bits.ue()) if bits.u(1) else (0, 0, 0, 0)


def _frame_rate(bits: Bits) -> float | None:
    """Of the VUI (E.1.1), up to its timing."""
    try:
        if bits.u(1) and bits.u(8) == _EXTENDED_SAR:
            bits.u(32)
        if bits.u(1):
            bits.u(1)
        if bits.u(1):
            bits.u(4)
            if bits.u(1):
                bits.u(24)
        if bits.u(1):
            bits.ue(), bits.ue()
        if not bits.u(1):
            return None
        tick, scale = bits.u(32), bits.u(32)
    except ValueError:
        return None
    fps = scale / (2 * tick) if tick else 0.0
    return fps if 0 < fps < 1000 else None


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
    return _format(width, height, (left + right) * wide, (top + bottom) * high, None, name)


def _format(width: int, height: int, across: int, down: int, fps: float | None, name: int) -> PictureFormat:
    if not (0 < width <= 65536 and 0 < height <= 65536 and across < width and down < height):
        raise ValueError("no such size")
    return PictureFormat(width - across, height - down, width * height, fps, name)
