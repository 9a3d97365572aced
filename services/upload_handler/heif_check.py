"""HEIC and AVIF (ISO/IEC 23008-12): the boxes against bounds, before a decoder sees them."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from utils.exceptions import ImageTooLarge, InvalidImage

_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
_AVIF = frozenset({b"avif", b"avis"})
_INTO = {b"meta": 4, b"iprp": 0, b"ipco": 0}  # boxes with boxes in them, and the bytes before these
_MAX_BOXES = 10_000
_PIXEL = 16  # bytes: planes of up to 16 bits, those of the pictures they refer to, and the colours


class HeifFacts(NamedTuple):
    pixels: int  # of the largest picture in it: tiles are smaller, thumbnails too
    memory: int


def heif_kind(head: bytes) -> str | None:
    """heic or avif by the brands of the file's first box; None for another file."""
    if head[4:8] != b"ftyp":
        return None
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))}
    return "avif" if brands & _AVIF else "heic" if brands & _HEIC else None


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of each box's body. Raises InvalidImage for one that reaches beyond its parent."""
    while at + 8 <= end:
        size, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif size == 0:  # to the end
            size = end - at
        if size < head or at + size > end:
            raise InvalidImage("A box of the picture lies beyond its end: it is cut off.")
        yield kind, at + head, at + size
        at += size


def check_heif(data: bytes, max_pixels: int) -> HeifFacts:
    """Raises InvalidImage or ImageTooLarge."""
    waiting, pixels, count, kinds = [(0, len(data))], 0, 0, set()
    while waiting:
        for kind, start, end in _boxes(data, *waiting.pop()):
            count += 1
            if count > _MAX_BOXES:
                raise InvalidImage("The picture has too many boxes.")
            kinds.add(kind)
            if kind == b"ispe":  # version and flags, width, height
                size = (int.from_bytes(data[at : at + 4], "big") for at in (start + 4, start + 8))
                pixels = max(pixels, prod(size))
            elif kind in _INTO:
                waiting.append((start + _INTO[kind], end))
    if b"meta" not in kinds or not pixels:
        raise InvalidImage("The file has no picture in it.")
    if pixels > max_pixels:
        raise ImageTooLarge()
    return HeifFacts(pixels, _PIXEL * pixels)
