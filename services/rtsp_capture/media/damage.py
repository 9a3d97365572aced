"""How it is known that a picture is not whole, or refers to one that is not.

`LossWatch` checks packets as they come: H.264 numbers its frames, so that a lost one is known before anything is
decoded (FFmpeg's decoder reports nothing and shows a smeared picture). `ffmpeg.decoder_errors` are the decoder's own reports
while it decodes. `Damage` holds what both have reported about one group of pictures. H.265 is checked by the decoder
alone: each picture lists the ones it refers to.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from services.rtsp_capture.media import h264

_STEPS = 8  # distances of neighbouring pictures from which the frame rate is known to be steady


@dataclass(slots=True)
class Damage:
    """The first spoilt packets of a group, in decoding order; damage only grows.

    `lost_at` is written by the event loop, the others by the decoder's thread: each has one writer.
    """

    lost_at: float = math.inf
    failed_at: float = math.inf
    leading_failed_at: float = math.inf  # of those shown before the keyframe: what follows it does not refer to them

    def lost(self, index: int) -> None:
        self.lost_at = min(self.lost_at, index)

    def failed(self, index: int, *, leading: bool = False) -> None:
        if leading:
            self.leading_failed_at = min(self.leading_failed_at, index)
        else:
            self.failed_at = min(self.failed_at, index)

    def spoils(self, index: int, *, leading: bool = False) -> bool:
        first = min(self.lost_at, self.failed_at)
        return index >= (min(first, self.leading_failed_at) if leading else first)

    @property
    def any(self) -> bool:
        return min(self.lost_at, self.failed_at) < math.inf


class PacketCheck(NamedTuple):
    """The result for one packet, by its headers and its time."""

    lost: bool = False  # pictures before it never came
    recovery: int = 0  # of a keyframe: pictures after it until one is whole (intra refresh without IDR)
    second_field: bool = False  # no picture of its own: the other half of the one before


class LossWatch:
    """Checks the packets of one connection, all of them, in decoding order. Pure.

    A gap in time alone is no loss: cameras skip pictures when they are busy and slow down at night. It counts where
    frame numbers cannot show a loss: where they may have gaps, where so many pictures are missing that the numbers wrapped,
    or where a keyframe, which resets them, would have been among the missing; and then only while the frame rate is steady
    and pictures come in the order of showing.
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        self._h264 = codec == "h264"
        self._sequences: dict[int, h264.Sequence] = {}
        self._pictures: dict[int, int] = {}  # sequence parameter sets by picture parameter set
        self._sets: dict[int, bytes] = {}  # the last ones, to parse only what is new
        self._number: int | None = None  # of the last reference frame; None: not known
        self._field: tuple[int, int] | None = None  # number and parity of a first field that waits for its other half
        self._steps: deque[float] = deque(maxlen=_STEPS)
        self._pts = -math.inf
        self._since_key = -math.inf  # pictures since the last keyframe, if there was one
        self._group = math.inf  # pictures from the keyframe before to the last one
        if self._h264:
            for nal in h264.annex_b(extradata).split(b"\0\0\1")[1:]:
                self._parameters(nal.rstrip(b"\0"))

    def check(self, data: bytes, pts: float, key: bool) -> PacketCheck:
        """`pts` in seconds."""
        header, sequence, recovery = self._headers(data, key) if self._h264 else (None, None, 0)
        if header is not None and self._second_field(header):
            return PacketCheck(second_field=True)
        missing = self._missing(pts)
        lost = self._numbers_gap(header, sequence) if header is not None and sequence is not None else None
        if self._h264 and missing and (lost is None or self._hides(missing, sequence)):
            lost = True
        self._since_key += 1
        if key:
            self._group, self._since_key = self._since_key if self._since_key > 0 else math.inf, 0
        idr = header is not None and header.idr
        return PacketCheck(bool(lost) and not idr, recovery)

    def _headers(self, data: bytes, key: bool) -> tuple[h264.SliceHeader | None, h264.Sequence | None, int]:
        recovery = 0
        try:
            starts = h264.nal_starts(data)
            for at in starts:
                kind = data[at] & 31
                if kind in (h264.SLICE, h264.IDR):
                    header, sequence = h264.read_slice(data[at : at + 64], self._sequence_of)
                    return header, sequence, 0 if kind == h264.IDR else recovery
                if kind in (h264.SPS, h264.PPS):
                    end = data.find(b"\0\0\1", at)
                    self._parameters(data[at : end if end >= 0 else None].rstrip(b"\0"))
                elif kind == h264.SEI and key:
                    end = data.find(b"\0\0\1", at)
                    recovery = h264.recovery_count(data[at : end if end >= 0 else None]) or recovery
        except ValueError:
            self._number = None
        return None, None, recovery

    def _sequence_of(self, pps: int) -> h264.Sequence | None:
        return self._sequences.get(self._pictures.get(pps, -1))

    def _parameters(self, nal: bytes) -> None:
        if not nal or self._sets.get(nal[0] & 31) == nal:
            return
        try:
            if nal[0] & 31 == h264.SPS:
                sequence = h264.parse_sps(nal)
                if self._sequences.get(sequence.id) != sequence:
                    self._number = None
                self._sequences[sequence.id] = sequence
            elif nal[0] & 31 == h264.PPS:
                pps, sps = h264.parse_pps(nal)
                self._pictures[pps] = sps
            self._sets[nal[0] & 31] = nal
        except ValueError:
            self._number = None

    def _second_field(self, header: h264.SliceHeader) -> bool:
        waiting, self._field = self._field, None
        if header.field is None:
            return False
        if waiting is not None and waiting == (header.frame_num, 1 - header.field):
            return True
        self._field = (header.frame_num, header.field)
        return False

    def _numbers_gap(self, header: h264.SliceHeader, sequence: h264.Sequence) -> bool | None:
        """Whether frame numbers (7.4.3) show a loss; None: they cannot."""
        before, self._number = self._number, header.frame_num if header.reference or header.idr else self._number
        if header.idr or before is None:
            return False
        if sequence.gaps_allowed:
            return None
        following = (before + 1) % (1 << sequence.frame_num_bits)
        if header.frame_num != following:
            self._number = header.frame_num
            return True
        return False

    def _missing(self, pts: float) -> int:
        """How many pictures a steady stream would have shown since the last packet."""
        step, self._pts = pts - self._pts, pts
        if not 0 < step < math.inf:
            self._steps.clear()
            return 0
        steps, usual = self._steps, math.inf
        if len(steps) == _STEPS and step > 1.5 * min(steps) and max(steps) < 1.3 * min(steps):
            usual = median(steps)
        steps.append(step)
        return round(step / usual) - 1 if step > 1.5 * usual else 0

    def _hides(self, missing: int, sequence: h264.Sequence | None) -> bool:
        went_round = sequence is not None and missing + 1 >= 1 << sequence.frame_num_bits
        return went_round or self._since_key + missing >= self._group
