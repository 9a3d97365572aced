"""What H.264's headers say without decoding (ITU-T H.264, 7.3): frame numbers, parameter sets, recovery points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

SLICE, IDR, SEI, SPS, PPS = 1, 5, 6, 7, 8  # table 7-1
_RECOVERY_POINT = 6  # H.264, D.1
# Profiles whose sequence parameter sets hold the chroma format (7.3.2.1.1).
_PROFILES_WITH_CHROMA = frozenset((100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135))
MAX_SPS_BYTES = 1024
_MAX_CYCLE = 255  # num_ref_frames_in_pic_order_cnt_cycle (7.4.2.1.1)
_HEADER = 48  # bytes of a slice that hold what is read of its header


class Bits:
    """Reads a NAL unit's payload bit by bit. Raises ValueError past its end."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")  # emulation prevention, 7.4.1
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def u(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("past the end")
        return self._value >> self._left & (1 << count) - 1

    def ue(self) -> int:
        """Exp-Golomb, 9.1."""
        zeros = self._left - (self._value & (1 << self._left) - 1).bit_length()
        if zeros > 31:
            raise ValueError("no Exp-Golomb code")
        self._left -= zeros
        return self.u(zeros + 1) - 1

    def se(self) -> int:
        code = self.ue()
        return (code + 1) // 2 if code % 2 else -(code // 2)


@dataclass(frozen=True, slots=True)
class Sequence:
    """What a sequence parameter set says about frame numbers and the coded size."""

    id: int
    frame_num_bits: int
    gaps_allowed: bool  # frame numbers may be left out without a loss (temporal layers)
    frames_only: bool  # no fields
    colour_planes: bool  # separate ones: slices name theirs
    chroma: int  # chroma_format_idc: 1 is 4:2:0
    across: int  # macroblocks, of 16 pixels
    down: int  # the same, of a frame or, where fields may be coded, of a field


class SliceHeader(NamedTuple):
    """The beginning of a picture's first slice."""

    idr: bool
    reference: bool
    pps: int
    frame_num: int
    field: int | None  # 0: top, 1: bottom, None: a frame


def nal_starts(data: bytes) -> Iterator[int]:
    """Where the NAL units of an Annex B access unit begin: the offsets of their header bytes."""
    at = data.find(b"\0\0\1")
    while 0 <= at < len(data) - 3:
        yield at + 3
        at = data.find(b"\0\0\1", at + 3)


def annex_b(extradata: bytes) -> bytes:
    """Parameter sets with start codes, whichever form they come in (avcC: ISO/IEC 14496-15, 5.3.3.1)."""
    if len(extradata) < 7 or extradata[0] != 1:
        return extradata
    found, at = [], 5
    for mask in (0x1F, 0xFF):
        if at >= len(extradata):
            break
        count, at = extradata[at] & mask, at + 1
        for _ in range(count):
            size = int.from_bytes(extradata[at : at + 2], "big")
            found.append(extradata[at + 2 : at + 2 + size])
            at += 2 + size
    return b"".join(b"\0\0\0\1" + one for one in found)


def parse_sps(nal: bytes) -> Sequence:
    """Of a NAL unit with its header byte. Raises ValueError; of hostile ones too, soon."""
    if len(nal) > MAX_SPS_BYTES:
        raise ValueError("an SPS of so many bytes")
    return read_sequence(Bits(nal[1:]))


def read_sequence(bits: Bits) -> Sequence:
    """From the profile to frame_mbs_only_flag (7.3.2.1.1). Raises ValueError."""
    profile = bits.u(8)
    bits.u(16)
    sps, chroma, colour_planes = bits.ue(), 1, False
    if profile in _PROFILES_WITH_CHROMA:
        chroma = bits.ue()
        colour_planes = chroma == 3 and bool(bits.u(1))
        bits.ue(), bits.ue(), bits.u(1)
        if bits.u(1):
            for index in range(12 if chroma == 3 else 8):
                if bits.u(1):
                    _skip_scaling(bits, 16 if index < 6 else 64)
    frame_num_bits = bits.ue() + 4
    order = bits.ue()
    if order == 0:
        bits.ue()
    elif order == 1:
        bits.u(1), bits.se(), bits.se()
        if (cycle := bits.ue()) > _MAX_CYCLE:
            raise ValueError("a cycle of so many frames")
        for _ in range(cycle):
            bits.se()
    bits.ue()
    gaps = bool(bits.u(1))
    across, down = bits.ue() + 1, bits.ue() + 1
    return Sequence(sps, frame_num_bits, gaps, bool(bits.u(1)), colour_planes, chroma, across, down)


def _skip_scaling(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def parse_pps(nal: bytes) -> tuple[int, int]:
    """Its id, and that of its sequence parameter set. Raises ValueError."""
    bits = Bits(nal[1:17])
    return bits.ue(), bits.ue()


def slice_pps(nal: bytes) -> int:
    """The picture parameter set that a slice names. Raises ValueError."""
    bits = Bits(nal[1:_HEADER])
    bits.ue(), bits.ue()
    return bits.ue()


def parse_slice(nal: bytes, sequence: Sequence) -> SliceHeader:
    """Of a slice's NAL unit, of which the beginning will do. Raises ValueError."""
    header, _ = read_slice(nal, lambda _: sequence)
    assert header is not None
    return header


def read_slice(nal: bytes, sequence_of: Callable[[int], Sequence | None]) -> tuple[SliceHeader | None, Sequence | None]:
    """The same, of a sequence that is found by the picture parameter set; None, None where it is not. Raises ValueError."""
    bits = Bits(nal[1:_HEADER])
    bits.ue(), bits.ue()
    pps = bits.ue()
    if (sequence := sequence_of(pps)) is None:
        return None, None
    if sequence.colour_planes:
        bits.u(2)
    frame_num = bits.u(sequence.frame_num_bits)
    field = None
    if not sequence.frames_only and bits.u(1):
        field = bits.u(1)
    return SliceHeader(nal[0] & 31 == IDR, bool(nal[0] & 0x60), pps, frame_num, field), sequence


def recovery_count(nal: bytes) -> int | None:
    """Of an SEI unit: frames after its picture until one is whole when decoding begins there (D.2.8).

    None: it holds no recovery point, or is cut off.
    """
    payload = nal[1:].replace(b"\0\0\3", b"\0\0")
    at = 0
    while at + 2 <= len(payload) and payload[at] != 0x80:
        sizes = []
        for _ in range(2):
            value = 0
            while at < len(payload) and payload[at] == 0xFF:
                value, at = value + 255, at + 1
            if at >= len(payload):
                return None
            sizes.append(value + payload[at])
            at += 1
        kind, size = sizes
        if kind == _RECOVERY_POINT:
            try:
                return Bits(payload[at : at + size]).ue()
            except ValueError:
                return None
        at += size
    return None
