"""PNG: every chunk's CRC (Pillow skips those of the picture data) and the sizes, before Pillow decodes it."""

from __future__ import annotations

import zlib
from typing import NamedTuple

from utils.exceptions import ImageTooLarge, InvalidImage

MAX_CHUNKS = 65_536


class PngFacts(NamedTuple):
    width: int
    height: int
    frames: int  # more than 1: animated
    exif: bytes | None


def check_png(data: bytes, max_pixels: int, max_pages: int) -> PngFacts:
    """Walks the chunks up to IEND. Raises InvalidImage or ImageTooLarge."""
    at, chunks, frames = 8, 0, 1
    width = height = 0
    exif: bytes | None = None
    view = memoryview(data)
    while True:
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        end = at + 12 + length
        if len(kind) < 4 or end > len(data):
            raise InvalidImage("The PNG ends before its end chunk: it is cut off.")
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise InvalidImage("A chunk of the PNG is damaged (CRC).")
        body = view[at + 8 : end - 4]
        if chunks == 0:
            if kind != b"IHDR" or length != 13:
                raise InvalidImage("The PNG does not begin with its header.")
            width, height = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")
        elif kind == b"acTL" and length == 8:
            frames = max(1, int.from_bytes(body[:4], "big"))
        elif kind == b"eXIf" and exif is None:
            exif = bytes(body)
        elif kind == b"IEND":
            break
        chunks += 1
        if chunks > MAX_CHUNKS:
            raise InvalidImage("The PNG has too many chunks.")
        # An animation's frames are drawn on the whole canvas one after another.
        if width * height * frames > max_pixels or frames > max_pages:
            raise ImageTooLarge()
        at = end
    if not width or not height:
        raise InvalidImage("The PNG's header has no size.")
    return PngFacts(width, height, frames, exif)
