"""RTP and RTCP packets (RFC 3550), and the camera's clock in them. Pure.

The camera's own time in each packet: ONVIF's header extension (Streaming Specification, section 6.3) and WebRTC's
abs-capture-time, where the SDP announces it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

NTP_EPOCH = 2_208_988_800  # seconds from 1900 to 1970
HEADER = struct.Struct("!BBHII")
_NTP_ONVIF, _ONE_BYTE = 0xABAC, 0xBEDE
_SENDER_REPORT, _BYE = 200, 203
_new = tuple.__new__


class Rtp(NamedTuple):
    """One packet. Its payload lies in `data` from `start` to `end`."""

    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    ssrc: int
    data: bytes
    start: int
    end: int
    profile: int = -1  # of the header extension; -1: there is none
    extension: bytes = b""


def parse_rtp(data: bytes) -> Rtp | None:
    """None for what is no RTP packet."""
    if len(data) < 12:
        return None
    first, second, sequence, timestamp, ssrc = HEADER.unpack_from(data)
    if first == 0x80:  # nearly all are as plain as that; a NamedTuple's own constructor is Python
        return _new(Rtp, (second & 0x7F, second > 127, sequence, timestamp, ssrc, data, 12, len(data), -1, b""))
    if first >> 6 != 2:
        return None
    start, end, profile, extension = 12 + 4 * (first & 15), len(data), -1, b""
    if first & 0x10:
        if start + 4 > end:
            return None
        profile, words = data[start] << 8 | data[start + 1], data[start + 2] << 8 | data[start + 3]
        extension = data[start + 4 : start + 4 + 4 * words]
        start += 4 + 4 * words
    if first & 0x20:
        end -= data[-1]
    if start > end:
        return None
    return Rtp(second & 0x7F, second > 127, sequence, timestamp, ssrc, data, start, end, profile, extension)


@dataclass(frozen=True, slots=True)
class SenderReport:
    """The camera's clock (`ntp`, 32.32 fixed point since 1900) at a moment of the RTP clock (section 6.4.1)."""

    ssrc: int
    ntp: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Bye:
    """These sources have ended (section 6.6); none named: all of them."""

    ssrcs: tuple[int, ...]


def parse_rtcp(data: bytes) -> list[SenderReport | Bye]:
    """The reports and goodbyes of a compound packet; what cannot be read ends it."""
    found: list[SenderReport | Bye] = []
    at = 0
    while at + 4 <= len(data) and data[at] >> 6 == 2:
        kind, stop = data[at + 1], at + 4 + 4 * (data[at + 2] << 8 | data[at + 3])
        if stop > len(data):
            break
        if kind == _SENDER_REPORT and stop - at >= 20:
            found.append(SenderReport(*struct.unpack_from("!IQI", data, at + 4)))
        elif kind == _BYE:
            count = min(data[at] & 31, (stop - at - 4) // 4)
            found.append(Bye(struct.unpack_from(f"!{count}I", data, at + 4)))
        at = stop
    return found


def receiver_report(ssrc: int) -> bytes:
    """An empty report with a name (sections 6.4.2 and 6.5): a sign of life."""
    name = b"\x01\x06camera\x00\x00\x00\x00"[: 2 + 6 + 4]
    return struct.pack("!BBHI", 0x80, 201, 1, ssrc) + struct.pack("!BBHI", 0x81, 202, 1 + len(name) // 4, ssrc) + name


def ntp_seconds(ntp: int) -> float:
    """Seconds since 1970."""
    return ntp / (1 << 32) - NTP_EPOCH


def packet_time(packet: Rtp, capture_time: int | None) -> float | None:
    """The camera's clock at this packet's picture, seconds since 1970; None where the packet does not say.

    `capture_time`: the id that the SDP gives to abs-capture-time.
    """
    extension = packet.extension
    if packet.profile == _NTP_ONVIF and len(extension) >= 8:
        ntp = int.from_bytes(extension[:8], "big")
        return ntp_seconds(ntp) if ntp else None
    if packet.profile == _ONE_BYTE and capture_time is not None:
        at = 0
        while at < len(extension):
            kind, size = extension[at] >> 4, (extension[at] & 15) + 1
            if extension[at] == 0:  # padding
                at += 1
                continue
            if kind == 15:
                break
            if kind == capture_time and size >= 8 and at + 9 <= len(extension):
                return ntp_seconds(int.from_bytes(extension[at + 1 : at + 9], "big"))
            at += 1 + size
    return None


def signed32(difference: int) -> int:
    """The difference of two RTP timestamps, which wrap."""
    difference &= 0xFFFFFFFF
    return difference - (1 << 32) if difference >> 31 else difference
