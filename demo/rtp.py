"""RTP payloads of one coded picture or of some sound. Pure.

H.264: RFC 6184 (single NAL units and FU-A); H.265: RFC 7798 (single and FU); JPEG: RFC 2435; AAC: RFC 3640 (AAC-hbr).
"""

import struct
from collections.abc import Iterable

_JPEG_TYPE = 1  # RFC 2435, section 4.1: baseline, 4:2:0, no restart markers
_TABLES_IN_BAND = 255  # the Q value for tables that may change with each picture


def video_payloads(codec: str, nalus: Iterable[bytes], limit: int) -> tuple[bytes, ...]:
    """The NAL units of a picture, none of the payloads longer than `limit` bytes."""
    split = _fu_a if codec == "h264" else _fu
    return tuple(part for nalu in nalus for part in ([nalu] if len(nalu) <= limit else split(nalu, limit)))


def _fu_a(nalu: bytes, limit: int) -> list[bytes]:
    indicator, kind = nalu[0] & 0xE0 | 28, nalu[0] & 0x1F
    return [bytes((indicator, kind | ends)) + piece for ends, piece in _pieces(nalu[1:], limit - 2)]


def _fu(nalu: bytes, limit: int) -> list[bytes]:
    first, kind = nalu[0] & 0x81 | 49 << 1, nalu[0] >> 1 & 0x3F
    return [bytes((first, nalu[1], kind | ends)) + piece for ends, piece in _pieces(nalu[2:], limit - 3)]


def _pieces(data: bytes, size: int) -> list[tuple[int, bytes]]:
    """Fragments with their start (0x80) and end (0x40) bits."""
    last = (len(data) - 1) // size * size
    return [((at == 0) << 7 | (at == last) << 6, data[at : at + size]) for at in range(0, len(data), size)]


def jpeg_payloads(picture: bytes, limit: int) -> tuple[bytes, ...]:
    """A baseline 4:2:0 JPEG with the standard Huffman tables, whose sides are multiples of 8 and at most 2040.

    The receiver makes new headers from what it is told: size, quantization tables, the scan's bytes.
    """
    tables, width, height, scan = parse_jpeg(picture)
    if width % 8 or height % 8 or max(width, height) > 2040:
        raise ValueError("RFC 2435 carries sides that are multiples of 8, up to 2040")
    quantization = struct.pack("!BBH", 0, 0, len(tables)) + tables
    payloads, at = [], 0
    while at < len(scan):
        head = at.to_bytes(4, "big") + bytes((_JPEG_TYPE, _TABLES_IN_BAND, width // 8, height // 8))
        head += quantization if at == 0 else b""
        payloads.append(head + scan[at : at + limit - len(head)])
        at += limit - len(head)
    return tuple(payloads)


def parse_jpeg(picture: bytes) -> tuple[bytes, int, int, bytes]:
    """Of a JPEG: the quantization tables, width, height, and the scan's bytes without the EOI marker."""
    tables: dict[int, bytes] = {}
    width = height = 0
    at = 2
    while at + 4 <= len(picture):
        marker, length = picture[at + 1], int.from_bytes(picture[at + 2 : at + 4], "big")
        body = picture[at + 4 : at + 2 + length]
        if marker == 0xDB:
            while body:
                tables[body[0]], body = body[1:65], body[65:]
        elif marker == 0xC0:
            height, width = struct.unpack("!HH", body[1:5])
            if body[7::3][:3] != bytes((0x22, 0x11, 0x11)):
                raise ValueError("not 4:2:0")
        elif marker in (0xC1, 0xC2, 0xDD):
            raise ValueError("not a baseline JPEG without restart markers")
        at += 2 + length
        if marker == 0xDA:
            scan = picture[at : picture.rindex(b"\xff\xd9")]
            return b"".join(tables[index] for index in sorted(tables)), width, height, scan
    raise ValueError("not a JPEG")


def aac_payload(frame: bytes) -> bytes:
    """One AAC frame with a 13-bit size and a 3-bit index."""
    return struct.pack("!HH", 16, len(frame) << 3) + frame


def rtp_header(payload_type: int, marker: bool, sequence: int, timestamp: int, ssrc: int) -> bytes:
    """RFC 3550, section 5.1; numbers are taken modulo their fields."""
    return struct.pack(
        "!BBHII", 0x80, marker << 7 | payload_type, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc & 0xFFFFFFFF
    )
