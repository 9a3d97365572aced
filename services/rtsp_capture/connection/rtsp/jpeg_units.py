"""Motion JPEG by RTP (RFC 2435): the headers are written anew from what the packets say. Pure.

With restart markers, 4:2:2, and ONVIF's header extension for pictures of more than 2040 pixels (Streaming
Specification, section 5.1.3).
"""

from __future__ import annotations

import struct
from functools import cache

from services.rtsp_capture.connection.rtsp.access_units import MAX_UNIT_BYTES, AccessUnit
from services.rtsp_capture.connection.rtsp.rtp import Rtp
from utils.exceptions import CaptureFailure

_ONVIF_JPEG = (0xFFD8, 0xFFFF)  # profiles of the extension
_EOI = b"\xff\xd9"
# ISO/IEC 10918-1, tables K.1 and K.2, in the order of RFC 2435, appendix A (zigzag).
_LUMA = bytes((
    16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40, 26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60,
    57, 51, 56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87, 95, 98, 103, 104, 103, 62, 77, 113, 121, 112,
    100, 120, 92, 101, 103, 99,
))  # fmt: skip
_CHROMA = bytes((17, 18, 18, 24, 21, 24, 47, 26, 26, 47, 99, 66, 56, 66, *(99,) * 50))


class JpegAssembler:
    """Of one track. A picture of which packets are missing is not given out: nothing refers to it."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._tables: dict[int, bytes] = {}  # quantization tables by Q, which may come once (section 4.2)
        self.size = (0, 0)
        self._begin()

    def _begin(self) -> None:
        self._head = b""
        self._parts: list[bytes] = []
        self._offset = 0  # bytes of the scan that are there; -1: not all are
        self._timestamp = -1
        self._first: Rtp | None = None

    waits = False

    def flush(self) -> list[AccessUnit]:
        return []

    def push(self, packet: Rtp, received: float, lost: bool) -> list[AccessUnit]:
        """The picture that this packet ends. Raises CaptureFailure for what exceeds a bound."""
        data, at, end = packet.data, packet.start, packet.end
        if packet.timestamp != self._timestamp:
            self._begin()
            self._timestamp = packet.timestamp
        if end - at < 8:
            return []
        offset = int.from_bytes(data[at + 1 : at + 4], "big")
        if offset == 0:
            self._parts, self._offset, self._first = [], 0, packet
        kind, quality = data[at + 4], data[at + 5]
        width, height = data[at + 6] * 8, data[at + 7] * 8
        at += 8
        interval = 0
        if 64 <= kind < 128:
            interval = data[at] << 8 | data[at + 1] if end - at >= 4 else 0
            at += 4
        if offset == 0:
            tables, at = self._quantization(data, at, end, quality)
            self._head = self._header(packet, kind & 63, width, height, interval, tables) if tables else b""
        if offset != self._offset or not self._head or at > end:
            self._offset = -1
            return []
        self._parts.append(data[at:end])
        self._offset += end - at
        if self._offset > MAX_UNIT_BYTES:
            raise CaptureFailure("unsupported_codec", "The camera sends pictures that are larger than this service takes.")
        if not packet.marker:
            return []
        scan = b"".join(self._parts)
        whole, first = self._head + (scan if scan.endswith(_EOI) else scan + _EOI), self._first or packet
        self._begin()
        return [AccessUnit(whole, first, received, True, False)]

    def _quantization(self, data: bytes, at: int, end: int, quality: int) -> tuple[bytes, int]:
        """(The tables one after the other, where the scan begins); no tables: they never came."""
        if quality < 128:
            return _scaled(max(1, min(99, quality))), at
        if end - at < 4:
            return b"", at
        precision, size = data[at + 1], data[at + 2] << 8 | data[at + 3]
        at += 4
        if not size:
            return self._tables.get(quality, b""), at
        tables = data[at : at + size]
        if size not in (64, 128, 192) or len(tables) != size or precision & 7:
            return b"", at + size
        if quality < 255:
            self._tables[quality] = tables
        return tables, at + size

    def _header(self, packet: Rtp, kind: int, width: int, height: int, interval: int, tables: bytes) -> bytes:
        if packet.profile in _ONVIF_JPEG and (found := _frame_size(packet.extension)) is not None:
            width, height = found
        if not width or not height or kind > 1:
            return b""
        if width * height > self._max_pixels:
            raise CaptureFailure("unsupported_codec", "The camera's pictures have more pixels than RTSP__MAX_PIXELS.")
        self.size = (width, height)
        count = len(tables) // 64
        quantization = b"".join(
            b"\xff\xdb\x00\x43" + bytes((index,)) + tables[64 * index : 64 * index + 64] for index in range(count)
        )
        second = min(1, count - 1)
        frame = struct.pack("!HHBHHB", 0xFFC0, 17, 8, height, width, 3)
        frame += bytes((1, 0x21 if kind == 0 else 0x22, 0, 2, 0x11, second, 3, 0x11, second))
        restart = struct.pack("!HHH", 0xFFDD, 4, interval) if interval else b""
        scan = b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00"
        from services.rtsp_capture.media.jpeg import standard_tables  # late: it imports cv2 (media/decoder.py)

        return b"\xff\xd8" + quantization + frame + standard_tables() + restart + scan


def _frame_size(extension: bytes) -> tuple[int, int] | None:
    """From the segment that begins a frame (SOF0 to SOF2) in ONVIF's extension."""
    at = 0
    while at + 9 <= len(extension):
        if extension[at] != 0xFF:
            return None
        marker = extension[at + 1]
        if marker in (0xFF, 0xD8):
            at += 1 if marker == 0xFF else 2
        elif marker in (0xC0, 0xC1, 0xC2):
            height, width = struct.unpack_from("!HH", extension, at + 5)
            return width, height
        else:
            at += 2 + max(2, extension[at + 2] << 8 | extension[at + 3])
    return None


@cache
def _scaled(quality: int) -> bytes:
    """RFC 2435, section 4.2."""
    factor = 5000 // quality if quality < 50 else 200 - quality * 2
    return bytes(max(1, min(255, (value * factor + 50) // 100)) for value in _LUMA + _CHROMA)
