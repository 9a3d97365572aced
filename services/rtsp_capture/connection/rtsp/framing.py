"""RTSP messages and interleaved data (RFC 2326, sections 4 to 7 and 10.12): bytes in, events out. Pure.

Cameras leave rests of a former session on a new connection, send data before they answer, and break the framing in
mid-stream. What cannot be read is skipped up to the next message or packet, and `Skipped` says so: data was lost there.

Longer than 250 lines: one parser over one buffer.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 256 * 1024  # of an SDP
MAX_SKIPPED_BYTES = 1024 * 1024  # before the first answer

_DOLLAR = 0x24
_HEADER = struct.Struct("!HHBxH")  # of the framing, and of RTP's header what comes first
_new = tuple.__new__
_BLANK = re.compile(rb"\n\r?\n")
_STATUS = re.compile(r"RTSP/\d\.\d\s+(\d{3})(?:\s|$)")
_REQUEST = re.compile(rb"[A-Z_]{3,20} [^\s\x00-\x20\x7f-\xff]")
# Where reading may go on: an answer, or an interleaved packet of RTP or RTCP, version 2.
_START = re.compile(rb"RTSP/1\.|\$(?=[\s\S]{3}[\x80-\xbf])")
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_LONGEST_START = 24  # bytes that tell what a message is
_MAX_MISSING = 64  # packets between one and the next that is found inside it


class ProtocolError(Exception):
    """What came is not RTSP, or exceeds a bound. Its text holds nothing of what came."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. Header names in lower case; a header may come several times."""

    status: int
    headers: dict[str, list[str]]
    body: bytes = b""

    def header(self, name: str) -> str:
        """The first of that name; empty when there is none."""
        return self.headers.get(name, [""])[0]

    @property
    def cseq(self) -> int | None:
        text = self.header("cseq").strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """A request that the other side sends to us."""

    method: str
    cseq: str
    uri: str = ""


class Data(NamedTuple):
    """One interleaved packet."""

    channel: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Skipped:
    """Bytes that could not be read: packets before the next event may be missing."""

    count: int


Event = Response | ServerRequest | Data | Skipped


def write_request(method: str, uri: str, cseq: int, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """One request without a body. Raises ProtocolError where a value would end its line: some come from the camera."""
    lines = [f"{method} {uri} RTSP/1.0", f"CSeq: {cseq}", *(f"{name}: {value}" for name, value in headers)]
    if any(char < " " or char == "\x7f" for line in lines for char in line) or " " in uri:
        raise ProtocolError("a control character in a request")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def write_response(status: str, cseq: str) -> bytes:
    """An answer to a request of the camera's; `status` with its reason."""
    return f"RTSP/1.0 {status}\r\nCSeq: {''.join(char for char in cseq[:20] if char.isdigit())}\r\n\r\n".encode()


class Framing:
    """The receiving side of one connection.

    `channels`: those that were agreed for our packets. While there are none, packets are leftovers, and dropped.
    """

    def __init__(self) -> None:
        self.channels: frozenset[int] = frozenset()
        self._rest = bytearray()
        self._need = 0  # bytes of the rest before it can be read on; 0: not known
        self._searched = 0  # bytes of the rest in which a head's end was looked for
        self._skipped = 0

    def feed(self, data: bytes) -> list[Event]:
        """What these bytes complete. Raises ProtocolError; the connection is then of no more use."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need or not self._head_may_end():
                return []
            data = bytes(self._rest)
            self._rest.clear()
        self._need = self._searched = 0
        events: list[Event] = []
        at, end = 0, len(data)
        while at < end:
            first = data[at]
            if first == _DOLLAR:
                at = self._plain(data, at, events)
                following = self._packet(data, at, end, events)
            elif first in b"\r\n":
                following = at + 1
            else:
                following = self._message(data, at, end, events)
            if following < 0:
                break
            at = following
        if at < end:
            self._rest += data[at:]
        return events

    def _plain(self, data: bytes, at: int, events: list[Event]) -> int:
        """Takes the packets from `at` on that are followed by their channel's next one, by its number: nothing is missing in
        them. In one loop without a call, for half of what `_packet` costs. Returns where it ends."""
        last, header = len(data) - _HEADER.size, _HEADER.unpack_from
        if at > last:
            return at
        start, size, version, number = header(data, at)
        channel = start & 0xFF
        if channel not in self.channels or version & 0xC0 != 0x80:
            return at
        while size >= 12 and (stop := at + 4 + size) <= last:
            following, size, version, after = header(data, stop)
            if following != start or (number + 1 & 0xFFFF) != after or version & 0xC0 != 0x80:
                break
            events.append(_new(Data, (channel, data[at + 4 : stop])))  # a NamedTuple's own constructor is Python
            at, number = stop, after
        return at

    def _head_may_end(self) -> bool:
        """So that a head which comes byte by byte is not searched from its beginning with each of them."""
        if not self._searched:
            return True
        start = max(0, self._searched - 3)
        self._searched = len(self._rest)
        if len(self._rest) > MAX_HEAD_BYTES or _BLANK.search(self._rest, start) is not None:
            return True
        return _BINARY.search(self._rest, start) is not None

    # -- packets -----------------------------------------------------------------------------------------------

    def _packet(self, data: bytes, at: int, end: int, events: list[Event]) -> int:
        """Where to go on; -1: more bytes are needed."""
        if end - at < 4:
            self._need = 4
            return -1
        channel, stop = data[at + 1], at + 4 + (data[at + 2] << 8 | data[at + 3])
        if not self.channels:
            return self._leftover(data, at, stop, end)
        known = channel in self.channels
        if known and stop > at + 4 and end > at + 4 and data[at + 4] & 0xC0 != 0x80:
            return self._resync(data, at + 1, end, events)
        if stop > end:
            self._need = stop - at
            return -1
        if stop < end and data[stop] != _DOLLAR and not _may_begin(data, stop):
            return self._resync(data, at + 1, end, events)  # its length is wrong, or what follows it was cut
        if known and (inner := self._inner(data, at, stop)) >= 0:
            events.append(Skipped(inner - at))
            return inner
        if stop > at + 4:
            events.append(Data(channel, data[at + 4 : stop]))
        return stop

    def _leftover(self, data: bytes, at: int, stop: int, end: int) -> int:
        """A packet of somebody's former session, maybe cut off: an answer may lie right in what should be its end."""
        if stop > end or data.find(b"RTSP/1.", at, stop) >= 0:
            answer = data.find(b"RTSP/1.", at)
            if answer < 0:
                return -1
            stop = answer
        self._skip(stop - at)
        return stop

    def _inner(self, data: bytes, at: int, stop: int) -> int:
        """Where the next packet of the channel begins inside this one, of which bytes are missing; -1: nowhere."""
        first, kind, number = data[at + 4 : at + 5], data[at + 5] & 0x7F, data[at + 6] << 8 | data[at + 7]
        if stop - at < 40:
            return -1
        needle, found = data[at : at + 2], at + 16
        last = min(stop + 1, len(data) - 6)  # its header may lie beyond the end that this packet claims
        while (found := data.find(needle, found, last)) >= 0:
            if data[found + 4 : found + 5] == first and data[found + 5] & 0x7F == kind:
                ahead = (data[found + 6] << 8 | data[found + 7]) - number & 0xFFFF
                if 0 < ahead <= _MAX_MISSING:
                    return found
            found += 1
        return -1

    def _resync(self, data: bytes, at: int, end: int, events: list[Event]) -> int:
        """The next place that looks like the beginning of something."""
        for match in _START.finditer(data, at):
            where = match.start()
            if data[where] != _DOLLAR:
                return self._skip_to(where, at, events)
            if data[where + 1] in self.channels and (data[where + 2] << 8 | data[where + 3]) >= 8:
                return self._skip_to(where, at, events)
        return self._skip_to(max(at, end - 6), at, events) if end - 6 > at else -1

    def _skip_to(self, where: int, at: int, events: list[Event]) -> int:
        self._skip(where - at)
        events.append(Skipped(where - at))
        return where

    def _skip(self, count: int) -> None:
        self._skipped += count
        if not self.channels and self._skipped > MAX_SKIPPED_BYTES:
            raise ProtocolError("no answer")

    # -- messages ----------------------------------------------------------------------------------------------

    def _message(self, data: bytes, at: int, end: int, events: list[Event]) -> int:
        """Where to go on; -1: more bytes are needed."""
        if not _may_begin(data, at):
            return self._resync(data, at + 1, end, events)
        blank = _BLANK.search(data, at, at + MAX_HEAD_BYTES)
        if _BINARY.search(data, at, blank.start() if blank is not None else end):
            return self._resync(data, at + 1, end, events)  # it only looked like one
        if blank is None:
            if end - at >= MAX_HEAD_BYTES:
                raise ProtocolError("the head is too large")
            self._searched = end - at
            return -1
        lines = _lines(data[at : blank.start()])
        headers: dict[str, list[str]] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if colon:
                headers.setdefault(name.strip().lower(), []).append(value.strip())
        length = headers.get("content-length", ["0"])[0] or "0"
        if not (length.isascii() and length.isdigit()) or len(length) > 9 or int(length) > MAX_BODY_BYTES:
            raise ProtocolError("no length, or too large")
        stop = blank.end() + int(length)
        if stop > end:
            self._need = stop - at
            return -1
        if lines[0].startswith("RTSP/"):
            status = _STATUS.match(lines[0])
            if status is None:
                raise ProtocolError("no status")
            events.append(Response(int(status[1]), headers, data[blank.end() : stop]))
        else:
            words = lines[0].split(" ")
            events.append(ServerRequest(words[0], headers.get("cseq", [""])[0], words[1]))
        return stop


def _lines(head: bytes) -> list[str]:
    """Of a head, with lines that go on in the next one (RFC 2326, section 4.2) put together."""
    lines: list[str] = []
    for line in head.decode("utf-8", "replace").split("\n"):
        if lines[1:] and line[:1] in (" ", "\t"):
            lines[-1] += f" {line.strip()}" if len(lines[-1]) < MAX_HEAD_BYTES else ""
        else:
            lines.append(line.rstrip("\r"))
    return lines


def _may_begin(data: bytes, at: int) -> bool:
    """Whether a message begins there, as far as its bytes have come."""
    start = data[at : at + _LONGEST_START]
    if start[:1] in b"\r\n":
        return True
    if b"RTSP/1."[: len(start)] == start[:7]:
        return True
    if _REQUEST.match(start):
        return True
    return len(start) < _LONGEST_START and start.replace(b"_", b"A").rstrip(b" ").isalpha() and start.rstrip(b" ").isupper()
