"""WebP (RFC 9649): its chunks and sizes, before a decoder sees them."""

from __future__ import annotations

from typing import NamedTuple

from utils.exceptions import ImageTooLarge, InvalidImage

_MAX_CHUNKS = 10_000
_PIXEL = 28  # bytes: the canvas, the frame before, and the decoder's own; 23 were measured


class WebpFacts(NamedTuple):
    frames: int
    memory: int


def _size(kind: bytes, body: bytes) -> tuple[int, int]:
    """Width and height in the first bytes of a chunk that says them."""
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF


def check_webp(data: bytes, max_pixels: int, max_pages: int) -> WebpFacts:
    """Raises InvalidImage or ImageTooLarge (all frames of an animation together)."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise InvalidImage("The WebP ends before its last chunk: it is cut off.")
    at, chunks, frames, width, height = 12, 0, 0, 0, 0
    while at + 8 <= end:
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + size > end:
            raise InvalidImage("A chunk of the WebP lies beyond its end: it is cut off.")
        if kind in (b"VP8X", b"VP8L", b"VP8 "):
            found = _size(kind, data[at + 8 : at + 18])
            width, height = max(width, found[0]), max(height, found[1])
        frames += kind in (b"ANMF", b"VP8L", b"VP8 ")
        chunks += 1
        if chunks > _MAX_CHUNKS or frames > max_pages or width * height * max(frames, 1) > max_pixels:
            raise ImageTooLarge()
        at += 8 + size + size % 2
    if not frames or not width or not height:
        raise InvalidImage("The WebP has no picture in it.")
    return WebpFacts(frames, _PIXEL * width * height)
