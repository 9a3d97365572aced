"""TIFF: its directories against bounds, before Pillow and libtiff see them."""

from __future__ import annotations

from typing import NamedTuple

from services.upload_handler.ifd import BYTE_TYPES, BadIfd, Directory, IfdReader
from utils.exceptions import ImageTooLarge, InvalidImage, UnsupportedImageFormat

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _ROWS, _PLANES = 256, 257, 258, 259, 277, 278, 284
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_DATA = ((273, 279), (324, 325))  # offsets and byte counts of strips, of tiles
_CHILDREN = (34_665, 34_853, 40_965)  # EXIF, GPS, interoperability: Pillow loads them with the picture
# none, CCITT (2-4), LZW, JPEG, deflate (two numbers), PackBits, zstd
_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 7, 8, 32_773, 32_946, 50_000})
MAX_NUMBERS = 200_000  # values of one tag: strips of a picture, or a colour map of 3 x 65,536
_MAX_PIXEL_BYTES = 16
_UNCOMPRESSED, _JPEG, _ZSTD, _SEPARATE = 1, 7, 50_000, 2
_ZSTD_WINDOW = 134_217_728  # bytes that its decoder takes at most
_JPEG_PIXEL = 8  # bytes: coefficients of a progressive strip, and its pixels in RGBA
_VALUE = {5: 500, 10: 500}  # bytes of a value as Pillow's object: of a fraction; of other numbers, and of any text:
_PLAIN_VALUE = 40
_SHARED = 1_048_576  # bytes of tag data that may be counted twice: writers let equal values share a place


class Page(NamedTuple):
    width: int
    height: int
    stored: int  # bytes of the decoded page
    memory: int  # bytes that decoding takes beside the file: the page, a strip or tile of it, its tags


class _Walk:
    def __init__(self, data: bytes, max_pixels: int) -> None:
        self.reader = IfdReader(data)
        self._size = len(data)
        self._max_pixels = max_pixels
        self._tag_bytes = 0

    def _one(self, directory: Directory, tag: int, default: int = 0) -> int:
        found = self.reader.numbers(directory.entries.get(tag), 1)
        return int(found[0]) if found else default

    def bound_tags(self, directory: Directory, depth: int = 0) -> None:
        """What Pillow will load of this directory lies in the file and is not more than the file."""
        for entry in directory.entries.values():
            if not self.reader.inside(entry):
                raise InvalidImage("The TIFF's directory points beyond its end: it is cut off.")
            if entry.type not in BYTE_TYPES and entry.values > MAX_NUMBERS:
                raise InvalidImage("A tag of the TIFF has too many values.")
            self._tag_bytes += entry.size
        if self._tag_bytes > self._size + _SHARED:
            raise InvalidImage("The TIFF's tags are larger than the file.")
        for tag in _CHILDREN if depth < 2 else ():
            at = self._one(directory, tag)
            if at:
                self.bound_tags(self.reader.directory(at), depth + 1)

    def page(self, directory: Directory) -> Page:
        width, height = self._one(directory, _WIDTH), self._one(directory, _HEIGHT)
        if width <= 0 or height <= 0:
            raise InvalidImage("A page of the TIFF has no size.")
        if width * height > self._max_pixels:
            raise ImageTooLarge()
        if self._one(directory, _COMPRESSION, 1) not in _COMPRESSIONS:
            raise UnsupportedImageFormat("The TIFF's compression is not one that this service takes.")
        bits = self.reader.numbers(directory.entries.get(_BITS), 64) or (1,)
        samples = max(self._one(directory, _SAMPLES, 1), len(bits))
        pixel_bytes = samples * max(bits) / 8
        if pixel_bytes > _MAX_PIXEL_BYTES:
            raise UnsupportedImageFormat("The TIFF has more channels or bits than this service takes.")
        strip = self._strip(directory, width, height, pixel_bytes, samples)
        self._data(directory)
        stored = width * height * (4 if samples > 1 or max(bits) > 8 else 1)
        return Page(width, height, stored, stored + strip + self._tags(directory))

    def _strip(self, directory: Directory, width: int, height: int, pixel_bytes: float, samples: int) -> int:
        """Bytes that libtiff takes for one strip or tile. It takes them whole, however small the picture.

        A strip may be the whole picture (its rows are the writer's choice), in up to 16 bytes a pixel beside the page.
        """
        compression = self._one(directory, _COMPRESSION, _UNCOMPRESSED)
        rows = min(self._one(directory, _ROWS, height) or height, height)
        tile = self._one(directory, _TILE_WIDTH) * self._one(directory, _TILE_HEIGHT)
        planes = samples if self._one(directory, _PLANES, 1) == _SEPARATE else 1
        size = int((tile or width * rows) * max(pixel_bytes / planes, 1))
        if tile == 0 and compression == _UNCOMPRESSED:
            size = width * 16  # row by row
        if size > 4 * self._max_pixels:
            raise ImageTooLarge("A strip or tile of the TIFF is too large: save it with fewer rows a strip.")
        if compression == _JPEG:
            size += (tile or width * rows) * _JPEG_PIXEL
        if compression == _ZSTD:
            size += min(2 * size, _ZSTD_WINDOW)
        return size

    def _tags(self, directory: Directory) -> int:
        """Bytes that the tags take when they are read: as numbers, each is an object of Python."""
        numbers = (entry for entry in directory.entries.values() if entry.type not in BYTE_TYPES)
        return sum(entry.size + entry.values * _VALUE.get(entry.type, _PLAIN_VALUE) for entry in numbers)

    def _data(self, directory: Directory) -> None:
        for offsets_tag, counts_tag in _DATA:
            offsets = self.reader.numbers(directory.entries.get(offsets_tag), MAX_NUMBERS)
            counts = self.reader.numbers(directory.entries.get(counts_tag), MAX_NUMBERS)
            if offsets:
                ends = (at + size for at, size in zip(offsets, counts, strict=False))
                negative = min(offsets) < 0 or min(counts, default=0) < 0  # signed types are allowed, and signs not
                if negative or max(offsets) >= self._size or any(end > self._size for end in ends):
                    raise InvalidImage("The TIFF's picture data lies beyond its end: it is cut off.")
                return
        raise InvalidImage("A page of the TIFF has no picture data.")


def check_tiff(data: bytes, max_pixels: int, max_pages: int) -> list[Page]:
    """The pages, at least one. Raises InvalidImage, ImageTooLarge (all pages together) or UnsupportedImageFormat."""
    try:
        walk = _Walk(data, max_pixels)
        if walk.reader.big and data.startswith(b"MM"):
            raise UnsupportedImageFormat("Big-endian BigTIFF is not taken.")  # Pillow does not read it
        pages: list[Page] = []
        at = walk.reader.first
        while at:
            if len(pages) == max_pages:  # also ends a chain that runs in a circle
                raise ImageTooLarge(f"The TIFF has more than {max_pages} pages.")
            directory = walk.reader.directory(at)
            walk.bound_tags(directory)
            pages.append(walk.page(directory))
            if sum(page.width * page.height for page in pages) > max_pixels:
                raise ImageTooLarge("The pages of the TIFF have more pixels together than UPLOAD__MAX_PIXELS.")
            at = directory.next
    except (BadIfd, ValueError, OverflowError):
        raise InvalidImage("The TIFF's directory is cut off or malformed.") from None
    if not pages:
        raise InvalidImage("The TIFF has no pages.")
    return pages
