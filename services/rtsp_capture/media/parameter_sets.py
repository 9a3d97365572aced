"""What decoders keep from one picture to the next: parameter sets of H.264 and H.265, tables and size of a JPEG.

A stream has proved itself by these (`streams/trials.py`). Pure; on the event loop; a scan takes 0.1 ms of 100 KB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Protocol

from services.rtsp_capture.media.h264 import nal_starts
from services.rtsp_capture.media.sps import picture_format

MOST = 32  # of one group of pictures; a camera has three or four
_SETS = {"h264": frozenset((7, 8, 13, 15)), "hevc": frozenset((32, 33, 34))}  # tables 7-1 of both
_SPS = {"h264": 7, "hevc": 33}
_SOS, _DQT, _DHT, _DRI, _DAC = 0xDA, 0xDB, 0xC4, 0xDD, 0xCC
_STANDALONE = frozenset((0x01, *range(0xD0, 0xDA)))  # markers without a segment


class Encoded(Protocol):
    """What is read of a packet."""

    @property
    def data(self) -> bytes: ...


@dataclass(slots=True)
class SeenSets:
    """The parameter sets of one group of pictures, as far as it was looked at.

    `pixels`: of the largest picture that they announce, the cropped ones included; 0: none does.
    """

    found: set[bytes] = field(default_factory=set)
    pixels: int = 0
    _scanned: int = 0

    @property
    def too_many(self) -> bool:
        return len(self.found) > MOST

    def scan(self, codec: str, packets: Sequence[Encoded], end: int) -> SeenSets:
        """Scans the group's packets up to `end`, each once. Returns itself."""
        for packet in packets[self._scanned : end]:
            if not self.too_many:
                self.note(codec, packet.data)
        self._scanned = max(self._scanned, min(end, len(packets)))
        return self

    def note(self, codec: str, data: bytes) -> None:
        """Adds those of one access unit."""
        if codec == "mjpeg":
            self._jpeg(data)
            return
        kinds, shift, mask = _SETS[codec], 1 if codec == "hevc" else 0, 63 if codec == "hevc" else 31
        for at in nal_starts(data):
            kind = data[at] >> shift & mask
            if kind not in kinds:
                continue
            end = data.find(b"\0\0\1", at)
            nal = data[at : end if end >= 0 else None].rstrip(b"\0")
            name = _digest(nal)
            if name in self.found:
                continue
            self.found.add(name)
            if kind == _SPS[codec]:
                self._size(codec, nal)
            if self.too_many:
                return

    def _size(self, codec: str, nal: bytes) -> None:
        try:
            self.pixels = max(self.pixels, picture_format(codec, nal).coded)
        except ValueError:
            pass  # the decoder says what it thinks of it

    def _jpeg(self, data: bytes) -> None:
        """Size, sampling, Huffman tables and restart interval. Of quantisation tables only which there are: cameras
        that control their rate by them change the numbers in every picture.
        """
        at, told = 2, []
        while at + 4 <= len(data) and data[at] == 0xFF:
            marker = data[at + 1]
            if marker == _SOS:
                break
            if marker == 0xFF or marker in _STANDALONE:
                at += 1 if marker == 0xFF else 2
                continue
            size = int.from_bytes(data[at + 2 : at + 4], "big")
            segment = data[at : at + 2 + size]
            if 0xC0 <= marker <= 0xCF or marker == _DRI:
                told.append(segment)
                if marker not in (_DHT, _DAC, 0xC8) and size >= 7:
                    height, width = (int.from_bytes(segment[i : i + 2], "big") for i in (5, 7))
                    self.pixels = max(self.pixels, width * height)
            elif marker == _DQT:
                told.append(segment[:5] + bytes([size & 0xFF]))
            at += 2 + max(2, size)
        self.found.add(_digest(b"".join(told)))


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()
