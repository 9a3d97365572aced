"""Is a PNG's picture data whole? Inflated from the first row to the last, a piece at a time, and not kept.

Pillow takes a stream that ends early for a picture whose rest is black. Undoing a row's filter cannot fail, so a picture
is whole when every row is there and names a filter that exists; a picture of any size takes a megabyte to check.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from utils.exceptions import InvalidImage

_IN, _OUT = 65_536, 524_288  # bytes fed and taken at a time
_FILTERS = bytes(range(5))
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# Adam7: first column and row, steps across and down (PNG 8.2)
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class PngHeader(NamedTuple):
    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @classmethod
    def of(cls, body: bytes) -> PngHeader:
        """IHDR's 13 bytes. Raises InvalidImage."""
        depth, colour, compression, filtering, interlace = body[8:13]
        if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
            raise InvalidImage("The PNG's header is not one that the standard allows.")
        size = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")
        return cls(*size, depth, colour, interlace == 1)

    def rows(self) -> Iterator[tuple[int, int]]:
        """(bytes of a row with its filter, rows) of each pass, empty passes left out."""
        for left, top, across, down in _PASSES if self.interlaced else ((0, 0, 1, 1),):
            columns = -(-(self.width - left) // across)
            rows = -(-(self.height - top) // down)
            if columns > 0 and rows > 0:
                yield 1 + (columns * self.depth * _CHANNELS[self.colour] + 7) // 8, rows


def _inflated(pieces: Iterable[memoryview]) -> Iterator[bytes]:
    inflate = zlib.decompressobj()
    for piece in pieces:
        for at in range(0, len(piece), _IN):
            data: bytes | memoryview = piece[at : at + _IN]
            while data and not inflate.eof:
                yield inflate.decompress(data, _OUT)
                data = inflate.unconsumed_tail
    yield inflate.flush(_OUT)


def check_pixels(header: PngHeader, pieces: Iterable[memoryview]) -> None:
    """`pieces`: the bodies of the IDAT chunks. Data behind the last row is not looked at. Raises InvalidImage."""
    stream = _inflated(pieces)
    out, at = b"", 0
    try:
        for row, rows in header.rows():
            left = row * rows  # bytes of this pass that are still to come
            while left:
                if at == len(out):
                    out, at = next(stream), 0
                    continue
                taken = min(left, len(out) - at)
                filters = out[at + left % row : at + taken : row]
                if filters.translate(None, _FILTERS):
                    raise InvalidImage("A row of the PNG has a filter that does not exist.")
                left -= taken
                at += taken
    except StopIteration:
        raise InvalidImage("The PNG's picture data ends before its last row.") from None
    except zlib.error:
        raise InvalidImage("The PNG's picture data is damaged.") from None
