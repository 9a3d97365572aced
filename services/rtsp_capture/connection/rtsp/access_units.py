"""From RTP payloads to access units: H.264 (RFC 6184) and H.265 (RFC 7798), as Annex B. Pure.

A picture ends with the packet that has the marker bit, or where the timestamp changes. Markers are believed once
MARKERS of them stood where pictures end: some cameras set it on each slice, others never. An access unit without a
picture (parameter sets that were sent alone) goes to the one after it.

Longer than 250 lines: one assembler; the codecs differ in a few lines of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from services.rtsp_capture.connection.rtsp.rtp import Rtp
from services.rtsp_capture.media import h264
from utils.exceptions import CaptureFailure

MARKERS = 3
MAX_UNIT_BYTES = 16 * 1024 * 1024
MAX_NALS = 20_000  # of one access unit
_MAX_CARRIED = 64 * 1024
_START = b"\0\0\0\1"
_TOO_LARGE = "The camera sends pictures that are larger than this service takes."


class AccessUnit(NamedTuple):
    """One access unit. `packet`: its first one, whose header says when it was taken; `received`: when its last came."""

    data: bytes
    packet: Rtp
    received: float
    key: bool
    corrupt: bool


@dataclass(frozen=True)
class Codec:
    """Where the two formats differ."""

    header: int  # bytes of a NAL unit's header
    kind: tuple[int, ...]  # by its first byte: a call for each packet takes a thirtieth of what reading a stream takes
    pictures: range  # kinds that hold a picture's data
    keys: range
    before: frozenset[int]  # kinds that begin an access unit: delimiters, parameter sets, SEI
    sets: frozenset[int]
    aggregate: int
    fragment: int

    @cached_property
    def fragments(self) -> frozenset[int]:
        """First bytes of NAL units that are fragments of one."""
        return frozenset(first for first in range(256) if self.kind[first] == self.fragment)


H264 = Codec(
    1,
    tuple(first & 31 for first in range(256)),
    range(1, 6),
    range(5, 6),
    frozenset((6, 7, 8, 9)),
    frozenset((7, 8)),
    24,
    28,
)
HEVC = Codec(
    2, tuple(first >> 1 & 63 for first in range(256)), range(32), range(16, 24),
    frozenset((32, 33, 34, 35, 39)), frozenset((32, 33, 34)), 48, 49,
)  # fmt: skip
_RECOVERY = 6  # H.264: an SEI, which may make a picture a key


class UnitAssembler:
    """Of one track. `on_set` is called with each parameter set that is not the former one.

    It raises ValueError for one that must not reach a decoder, and CaptureFailure to end the connection.
    """

    def __init__(self, codec: str, on_set: Callable[[bytes], None], *, don: bool = False) -> None:
        """`codec`: h264 or hevc; `don`: H.265's packets hold decoding order numbers."""
        self._codec = H264 if codec == "h264" else HEVC
        self._don = 2 if don else 0
        self._on_set = on_set
        self.sets: dict[int, bytes] = {}  # the newest parameter set of each kind
        self._markers = 0  # that stood at a picture's end; -1: they are not believed
        self._carried: list[bytes] = []
        self._after_loss = False  # what follows refers to what never came, until the next key
        self._last: tuple[Rtp, float] | None = None
        self._begin()

    def _begin(self) -> None:
        self._nals: list[bytes] = []  # with their start codes
        self._fragments: list[bytes] | None = None
        self._size = 0
        self._picture = self._key = self._corrupt = self._marked = False
        self._clean: bool | None = None  # whether its beginning is there
        self._first: Rtp | None = None

    @property
    def under_way(self) -> tuple[int, frozenset[int], int, list[bytes]] | None:
        """The NAL unit of which fragments may come: its timestamp, first bytes that a fragment may have, where in an RTP
        packet with a header of 12 bytes the flags stand that a middle one has not, and where the bytes after them go."""
        if self._fragments is None or self._last is None or self._marked or self._don:
            return None
        return self._last[0].timestamp, self._codec.fragments, 12 + self._codec.header, self._fragments

    def went_on(self, size: int, received: float) -> None:
        """Fragments with payloads of so many bytes were added to the NAL unit under way: most of a stream's packets are.

        Raises CaptureFailure for what exceeds a bound.
        """
        assert self._fragments is not None
        assert self._last is not None
        self._size += size
        if self._size > MAX_UNIT_BYTES or len(self._fragments) > MAX_NALS:
            raise CaptureFailure("unsupported_codec", _TOO_LARGE)
        self._last = (self._last[0], received)

    def ended(self, last: bytes, received: float, *, marker: bool) -> list[AccessUnit]:
        """The last fragment's bytes came after those that `went_on` counted. Raises CaptureFailure."""
        assert self._fragments is not None
        self._fragments.append(last)
        whole, self._fragments = b"".join(self._fragments), None
        self._nal(whole)
        if marker and self._markers >= MARKERS:
            return self._end(in_marker=True)
        self._marked = marker
        return []

    def push(self, packet: Rtp, received: float, lost: bool) -> list[AccessUnit]:
        """`lost`: packets before this one never came. Raises CaptureFailure for what exceeds a bound."""
        found: list[AccessUnit] = []
        begins = self._begins(packet)
        if self._last is not None and (self._nals or self._fragments is not None):
            if packet.timestamp != self._last[0].timestamp:
                self._corrupt |= lost and not self._marked
                found += self._end(in_marker=self._marked, lost=lost)
            elif self._marked and begins:
                found += self._end(in_marker=True)
            else:
                self._markers = -1 if self._marked and begins is False else self._markers
                self._corrupt |= lost
        elif begins is False and self._markers >= MARKERS and self._goes_on(packet):
            self._markers, self._after_loss = -1, True  # its picture was taken as whole at a marker
        self._after_loss |= lost
        if self._clean is None:
            self._clean = begins is not False
        self._first = self._first or packet
        self._last = (packet, received)
        self._marked = False
        self._add(packet)
        if packet.marker:
            if self._markers >= MARKERS:
                found += self._end(in_marker=True)
            else:
                self._marked = True
        return found

    def _goes_on(self, packet: Rtp) -> bool:
        return self._last is not None and packet.timestamp == self._last[0].timestamp

    @property
    def waits(self) -> bool:
        """Whether a picture is there that most likely is whole: when nothing follows for a while, `flush` gives it."""
        return self._marked and self._markers >= 0

    def flush(self) -> list[AccessUnit]:
        return self._end(in_marker=True) if self.waits else []

    # -- packets -----------------------------------------------------------------------------------------------

    def _begins(self, packet: Rtp) -> bool | None:
        """Whether its first NAL unit begins a picture or what comes before one; None: neither begins nor continues one."""
        codec, data, at, end = self._codec, packet.data, packet.start, packet.end
        if end - at <= codec.header:
            return None
        kind = codec.kind[data[at]]
        body = at + codec.header
        if kind == codec.fragment:
            if not data[body] & 0x80:
                return False
            kind, body = data[body] & (31 if codec is H264 else 63), body + 1 + self._don
        elif kind == codec.aggregate:
            body += self._don + 2
            if body + codec.header >= end:
                return None
            kind, body = codec.kind[data[body]], body + codec.header
        if kind in codec.pictures:
            return body < end and data[body] & 0x80 != 0  # the first macroblock; first_slice_segment_in_pic_flag
        return True if kind in codec.before else None

    def _add(self, packet: Rtp) -> None:
        codec, data, at, end = self._codec, packet.data, packet.start, packet.end
        self._size += end - at
        if self._size > MAX_UNIT_BYTES or len(self._nals) > MAX_NALS:
            raise CaptureFailure("unsupported_codec", _TOO_LARGE)
        if end - at <= codec.header:
            self._corrupt |= end > at
            return
        kind = codec.kind[data[at]]
        if kind == codec.fragment:
            self._fragment(data, at, end)
            return
        if self._fragments is not None:
            self._drop_fragments()
        if kind == codec.aggregate:
            self._aggregate(data, at + codec.header, end)
        elif kind < codec.aggregate:
            start = at if not self._don else at + codec.header + self._don
            self._nal(_START + (data[at:end] if not self._don else data[at : at + codec.header] + data[start:end]))
        else:  # interleaved modes and PACI, which no camera was seen to send
            self._corrupt = True

    def _aggregate(self, data: bytes, at: int, end: int) -> None:
        at += self._don
        while at + 2 < end:
            size, at = data[at] << 8 | data[at + 1], at + 2
            if at + size > end:
                self._corrupt = True
                return
            if size > self._codec.header:
                self._nal(_START + data[at : at + size])
            at += size + self._don // 2

    def _fragment(self, data: bytes, at: int, end: int) -> None:
        codec = self._codec
        if end - at <= codec.header + 1 + self._don:
            self._corrupt = True
            return
        head = data[at + codec.header]
        body = at + codec.header + 1
        if head & 0x80:
            if self._fragments is not None:
                self._drop_fragments()
            if codec is H264:
                start = bytes((data[at] & 0xE0 | head & 31,))
            else:
                start = bytes((data[at] & 0x81 | (head & 63) << 1, data[at + 1]))
            self._fragments = [_START, start, data[body + self._don : end]]
        elif self._fragments is None:
            self._corrupt = True
        elif len(self._fragments) > MAX_NALS:
            raise CaptureFailure("unsupported_codec", _TOO_LARGE)
        else:
            self._fragments.append(data[body:end])
        if head & 0x40 and self._fragments is not None:
            whole, self._fragments = b"".join(self._fragments), None
            self._nal(whole)

    def _drop_fragments(self) -> None:
        self._fragments, self._corrupt = None, True

    def _nal(self, coded: bytes) -> None:
        """Of a NAL unit with a start code before it: a unit of one is then copied no more."""
        codec, kind = self._codec, self._codec.kind[coded[4]]
        if coded[4] & 0x80:  # forbidden_zero_bit: a relay says that bits are wrong
            self._corrupt = True
            return
        # Several, with start codes: not RFC 6184, and seen. (rfind takes half of the time that find takes: 9 µs for 20 kB.)
        if coded.rfind(b"\0\0\1", 4) >= 0:
            parts = coded[4:].split(b"\0\0\1", MAX_NALS)
            if len(parts) + len(self._nals) > MAX_NALS:
                raise CaptureFailure("unsupported_codec", _TOO_LARGE)
            for part in parts:
                if len(part.rstrip(b"\0")) > codec.header:
                    self._nal(_START + (part.rstrip(b"\0") if codec.kind[part[0]] in codec.sets else part))
            return
        if kind in codec.pictures:
            self._picture = True
            self._key |= kind in codec.keys
        elif kind in codec.sets:
            nal = coded[4:]
            if self.sets.get(kind) != nal:
                try:
                    self._on_set(nal)
                except ValueError:
                    self._corrupt = True
                    return
                self.sets[kind] = nal
        elif codec is H264 and kind == _RECOVERY:
            self._key |= h264.recovery_count(coded[4:1028]) is not None
        self._nals.append(coded)

    # -- units -------------------------------------------------------------------------------------------------

    def _end(self, *, in_marker: bool, lost: bool = False) -> list[AccessUnit]:
        if self._fragments is not None:
            self._drop_fragments()
        nals, picture, corrupt, key = self._nals, self._picture, self._corrupt, self._key
        clean, first, last = self._clean, self._first, self._last
        self._begin()
        if first is None or last is None:
            return []
        if not picture:
            carried = [*self._carried, *nals]
            self._carried = carried if sum(map(len, carried)) <= _MAX_CARRIED else []
            self._after_loss |= corrupt
            return []
        if self._markers >= 0:
            self._markers = self._markers + 1 if in_marker else self._markers * lost  # the marker may be what was lost
        nals, self._carried = [*self._carried, *nals], []
        if self._after_loss:
            if key and clean and not corrupt:
                self._after_loss = False
            corrupt = corrupt or self._after_loss
            self._after_loss = False
        return [AccessUnit(b"".join(nals), first, last[1], key, corrupt)]
