"""PNG: every chunk's CRC, the sizes, packed texts, and every row of the picture, without a decoded picture in memory."""

from __future__ import annotations

import zlib
from typing import NamedTuple

from services.upload_handler.png_pixels import PngHeader, check_pixels
from utils.exceptions import ImageTooLarge, InvalidImage

MAX_CHUNKS = 65_536
# Readers unpack texts and colour profiles into memory. Of one text Pillow takes 1 MiB, of all 64.
_MAX_PACKED = {b"zTXt": 1_048_576, b"iTXt": 1_048_576, b"iCCP": 4_194_304}
_MAX_TEXT = 67_108_864
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})
_ANIMATED_PIXEL = 16  # bytes: canvas, frame, the frame before, and a copy while they are merged


class PngFacts(NamedTuple):
    width: int
    height: int
    frames: int  # more than 1: animated, and only the first picture has been looked at
    exif: bytes | None
    memory: int  # bytes that decoding an animation takes beside the file


def _unpacked(kind: bytes, body: memoryview) -> int:
    """Bytes of a text or colour profile when it is unpacked, 0 where it cannot be. Raises InvalidImage for too many."""
    keyword = bytes(body[:80]).find(b"\0")  # at most 79 characters (PNG 11.3.3)
    start = keyword + 2  # behind the method
    if kind == b"iTXt":  # flag, method, language, translated keyword
        rest = bytes(body[keyword + 3 : keyword + 4096])
        start = keyword + 4 + rest.find(b"\0", rest.find(b"\0") + 1)
    if keyword < 0 or kind == b"tEXt" or (kind == b"iTXt" and bytes(body[keyword + 1 : keyword + 2]) != b"\1"):
        return len(body)
    inflate = zlib.decompressobj()
    try:
        size = len(inflate.decompress(body[start:], _MAX_PACKED[kind]))
    except zlib.error:  # readers leave it out
        return 0
    if inflate.unconsumed_tail:
        raise InvalidImage("A packed text or colour profile of the PNG is too large.")
    return size


def check_png(data: bytes, max_pixels: int, max_pages: int) -> PngFacts:
    """Walks the chunks up to IEND, then the rows of the picture. Raises InvalidImage or ImageTooLarge."""
    at, chunks, frames, text = 8, 0, 1, 0
    header: PngHeader | None = None
    exif: bytes | None = None
    pixels: list[memoryview] = []
    palette = False
    view = memoryview(data)
    while True:
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        end = at + 12 + length
        if len(kind) < 4 or end > len(data):
            raise InvalidImage("The PNG ends before its end chunk: it is cut off.")
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise InvalidImage(f"The PNG's chunk {_shown(kind)} at byte {at} is damaged (CRC).")
        body = view[at + 8 : end - 4]
        if header is None:
            if kind != b"IHDR" or length != 13:
                raise InvalidImage("The PNG does not begin with its header.")
            header = PngHeader.of(bytes(body))
        elif kind == b"IDAT":
            pixels.append(body)
        elif kind == b"PLTE":
            palette = 0 < length <= 768 and length % 3 == 0
        elif kind == b"acTL" and length == 8:
            frames = max(1, int.from_bytes(body[:4], "big"))
        elif kind == b"eXIf" and exif is None:
            exif = bytes(body)
        elif kind in _TEXTS:
            text += _unpacked(kind, body)
        elif kind == b"IEND":
            break
        chunks += 1
        if chunks > MAX_CHUNKS or text > _MAX_TEXT:
            raise InvalidImage("The PNG has too many chunks, or too much text.")
        # An animation's frames are drawn on the whole canvas one after another.
        if header.width * header.height * frames > max_pixels or frames > max_pages:
            raise ImageTooLarge()
        at = end
    if not header.width or not header.height:
        raise InvalidImage("The PNG's header has no size.")
    if header.colour == 3 and not palette:
        raise InvalidImage("The PNG has no palette for its colours.")
    check_pixels(header, pixels)
    memory = _ANIMATED_PIXEL * header.width * header.height + text if frames > 1 else 0
    return PngFacts(header.width, header.height, frames, exif, memory)


def _shown(kind: bytes) -> str:
    """A chunk's type, which is four letters, or would be."""
    return kind.decode("ascii") if kind.isalpha() else "of no known type"
