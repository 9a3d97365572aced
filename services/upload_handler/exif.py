"""EXIF: what a camera says of its picture, as JSON that PostgreSQL takes. Garbage never refuses a picture."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from services.upload_handler.ifd import BadIfd, Directory, IfdReader, Number

MAX_TEXT = 200  # characters of one value
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_TEXTS = {"make": 0x010F, "model": 0x0110, "software": 0x0131}  # in the first directory
_EXIF_TEXTS = {"time_original": 0x9003, "offset": 0x9011, "sub_second": 0x9291, "lens": 0xA434}
_OFFSET_TIME = 0x9010  # of the file's last change; some cameras write only this one
_EXIF_NUMBERS = {"exposure_time": 0x829A, "f_number": 0x829D, "focal_length_mm": 0x920A}
_ORIENTATION, _ISO = 0x0112, 0x8827
# Recommended exposure index, standard output sensitivity, ISO speed: for values that ISO's 16 bits cannot hold.
_ISO_LARGE = (0x8832, 0x8831, 0x8833)


def clean_text(raw: bytes) -> str | None:
    """Text up to its first NUL without control characters, bounded; None when nothing is left."""
    raw = raw.split(b"\0", 1)[0]
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    text = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
    return re.sub(r"\s+", " ", text).strip()[:MAX_TEXT] or None


class _Block:
    """One EXIF block's directories; whatever cannot be read is absent, and makes it `damaged`."""

    def __init__(self, reader: IfdReader) -> None:
        self._reader = reader
        self.damaged = False
        self.main = reader.directory(reader.first)
        self.exif = self._child(_EXIF_IFD)
        self.gps = self._child(_GPS_IFD)

    def _child(self, tag: int) -> Directory:
        try:
            at = self._reader.numbers(self.main.entries.get(tag), 1)
            return self._reader.directory(int(at[0])) if at else Directory({}, 0)
        except (BadIfd, ValueError, OverflowError):
            self.damaged = True
            return Directory({}, 0)

    def text(self, directory: Directory, tag: int) -> str | None:
        entry = directory.entries.get(tag)
        if entry is not None and not self._reader.inside(entry):
            self.damaged = True
        return clean_text(self._reader.raw(entry, 4 * MAX_TEXT)) if entry is not None and entry.type in (1, 2, 7) else None

    def numbers(self, directory: Directory, tag: int, count: int = 1) -> tuple[Number, ...] | None:
        """`count` finite numbers, or None."""
        try:
            found = self._reader.numbers(directory.entries.get(tag), count)
        except BadIfd:
            self.damaged = True
            return None
        return found if len(found) == count and all(map(math.isfinite, found)) else None

    def number(self, directory: Directory, tag: int) -> Number | None:
        found = self.numbers(directory, tag)
        return found[0] if found else None


def _degrees(block: _Block, tag: int, limit: int) -> float | None:
    parts = block.numbers(block.gps, tag, 3)
    if parts is None:
        return None
    value = parts[0] + parts[1] / 60 + parts[2] / 3600
    negative = (block.text(block.gps, tag - 1) or "").upper()[:1] in ("S", "W")
    return round(-value if negative else value, 7) if 0 <= value <= limit else None


def _gps(block: _Block) -> dict[str, float] | None:
    lat, lon = _degrees(block, 2, 90), _degrees(block, 4, 180)
    if lat is None or lon is None:
        return None
    found = {"lat": lat, "lon": lon}
    altitude = block.number(block.gps, 6)
    if altitude is not None and abs(altitude) < 100_000:
        below = block.number(block.gps, 5) == 1
        found["alt"] = round(-altitude if below else float(altitude), 3)
    return found


def read_exif(data: bytes | None) -> dict[str, Any] | None:
    """The fields that were found in a TIFF-structured EXIF block (or TIFF file), or None when there are none.

    `damaged`: True when there is a block, of which something cannot be read; else absent.

    time_original, offset, sub_second (text as found), exposure_time (s), f_number, iso, focal_length_mm,
    orientation (1-8), make, model, lens, software, gps {lat, lon (degrees), alt (m)}. Only strings and finite
    numbers. Never raises for any content of `data`.
    """
    data = (data or b"").removeprefix(b"Exif\0\0")
    if not data:
        return None
    try:
        block = _Block(IfdReader(data))
    except (BadIfd, ValueError):
        return {"damaged": True}
    found: dict[str, Any] = {name: block.text(block.exif, tag) for name, tag in _EXIF_TEXTS.items()}
    found["offset"] = found["offset"] or block.text(block.exif, _OFFSET_TIME)
    found |= {name: block.text(block.main, tag) for name, tag in _TEXTS.items()}
    for name, tag in _EXIF_NUMBERS.items():
        value = block.number(block.exif, tag)
        found[name] = float(value) if value is not None and 0 < value < 1e9 else None
    iso = block.number(block.exif, _ISO)
    if iso == 65_535:
        iso = next((large for tag in _ISO_LARGE if (large := block.number(block.exif, tag))), iso)
    found["iso"] = int(iso) if iso is not None and 0 < iso < 1e9 else None
    orientation = block.number(block.main, _ORIENTATION)
    found["orientation"] = int(orientation) if orientation is not None and 1 <= orientation <= 8 else None
    found["gps"] = _gps(block)
    found["damaged"] = block.damaged or None
    return {name: value for name, value in found.items() if value is not None} or None
