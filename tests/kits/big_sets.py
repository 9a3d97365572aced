"""Sequence parameter sets of any size of picture, as far as they are read before a decoder is given them."""

from __future__ import annotations


def _ue(value: int) -> str:
    """Exp-Golomb (ITU-T H.264, 9.1)."""
    digits = f"{value + 1:b}"
    return "0" * (len(digits) - 1) + digits


def _bytes(bits: str) -> bytes:
    bits += "1"
    bits += "0" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    for last in range(4):  # emulation prevention (7.4.1)
        data = data.replace(bytes((0, 0, last)), bytes((0, 0, 3, last))) if last != 3 else data
    return data


def h264_sps(width: int, height: int, *, cycle: int | None = None) -> bytes:
    """`cycle`: frames of a picture order count cycle, instead of none."""
    order = _ue(0) + _ue(4) if cycle is None else _ue(1) + "1" + _ue(0) + _ue(0) + _ue(cycle) + _ue(0) * cycle
    size = _ue(width // 16 - 1) + _ue(height // 16 - 1)
    return b"\x67\x42\xc0\x1e" + _bytes(_ue(0) + _ue(0) + order + _ue(1) + "0" + size + "1" + "1" + "0" + "0")


def hevc_sps(width: int, height: int) -> bytes:
    head = "0000" + "000" + "1" + "0" * 3 + "00001" + "0" * 80 + f"{93:08b}"
    return b"\x42\x01" + _bytes(head + _ue(0) + _ue(1) + _ue(width) + _ue(height) + "0" + _ue(0) + _ue(0) + _ue(0) * 8)
