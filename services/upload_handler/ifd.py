"""A small, bounded reader of TIFF directories (IFDs): of EXIF blocks and of TIFF files before Pillow sees them.

Pillow's own reader loads every tag's data: 65,535 tags that all point at the same 50 MB would be 3 TB.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

Number = int | float
# type: (bytes of one value, struct code); 2 is ASCII, 7 is undefined, both read as bytes
_TYPES: dict[int, tuple[int, str]] = {
    1: (1, "B"), 2: (1, ""), 3: (2, "H"), 4: (4, "I"), 5: (8, "II"), 6: (1, "b"), 7: (1, ""), 8: (2, "h"),
    9: (4, "i"), 10: (8, "ii"), 11: (4, "f"), 12: (8, "d"), 13: (4, "I"), 16: (8, "Q"), 17: (8, "q"), 18: (8, "Q"),
}  # fmt: skip
BYTE_TYPES = frozenset({1, 2, 6, 7})
MAX_ENTRIES = 512  # in one directory; cameras write less than 100


class BadIfd(ValueError):
    """The structure is not what TIFF allows, or is beyond the bounds above."""


class IfdEntry(NamedTuple):
    type: int
    values: int  # how many
    offset: int  # of the value, in the file
    size: int  # bytes of the value


class Directory(NamedTuple):
    entries: dict[int, IfdEntry]
    next: int  # offset of the next directory; 0: none


class IfdReader:
    """Reads directories of `data`, which begins with a TIFF header (classic or BigTIFF). Raises BadIfd."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        order = {b"II": "<", b"MM": ">"}.get(data[:2])
        if order is None or len(data) < 8:
            raise BadIfd("no TIFF header")
        self._order = order
        magic = self._unpack("H", 2)[0]
        self.big = magic == 43
        if self.big:
            if self._unpack("HH", 4) != (8, 0):
                raise BadIfd("no BigTIFF header")
            self.first = self._unpack("Q", 8)[0]
        elif magic == 42:
            self.first = self._unpack("I", 4)[0]
        else:
            raise BadIfd("no TIFF header")

    def _unpack(self, code: str, offset: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self._order + code, self.data, offset)
        except (struct.error, OverflowError):
            raise BadIfd("a directory lies outside the file") from None

    def directory(self, offset: int) -> Directory:
        """The directory at `offset`. Entries of unknown types are left out; values are not read yet."""
        count = self._unpack("Q" if self.big else "H", offset)[0]
        if count > MAX_ENTRIES:
            raise BadIfd("a directory has too many entries")
        at = offset + (8 if self.big else 2)
        width, inline = (20, 8) if self.big else (12, 4)
        entries: dict[int, IfdEntry] = {}
        for _ in range(count):
            tag, kind, number = self._unpack("HHQ" if self.big else "HHI", at)
            if kind in _TYPES:
                size = number * _TYPES[kind][0]
                value_at = at + width - inline
                if size > inline:
                    value_at = self._unpack("Q" if self.big else "I", value_at)[0]
                entries.setdefault(tag, IfdEntry(kind, number, value_at, size))
            at += width
        return Directory(entries, self._unpack("Q" if self.big else "I", at)[0])

    def inside(self, entry: IfdEntry) -> bool:
        """Whether the value lies wholly in the file."""
        return entry.offset + entry.size <= len(self.data)

    def raw(self, entry: IfdEntry, limit: int) -> bytes:
        """The value's first `limit` bytes."""
        return self.data[entry.offset : entry.offset + min(entry.size, limit)]

    def numbers(self, entry: IfdEntry | None, limit: int) -> tuple[Number, ...]:
        """The value's first `limit` numbers; rationals as floats, those of denominator 0 as NaN. Empty for none."""
        if entry is None or entry.type in (2, 7):
            return ()
        width, code = _TYPES[entry.type]
        count = min(entry.values, limit)
        if entry.offset + count * width > len(self.data):
            raise BadIfd("a value lies outside the file")
        found = struct.unpack_from(f"{self._order}{count * len(code)}{code[0]}", self.data, entry.offset)
        if len(code) == 2:
            return tuple(a / b if b else float("nan") for a, b in zip(found[::2], found[1::2], strict=True))
        return found
