"""JPEG: the marker structure, then every bit of the scans, without a full picture in memory.

libjpeg only warns when a scan has been cut and an EOI put after it, and Pillow hides the warning. simplejpeg's
strict mode stops at the first warning, also of what is no part of the picture: that is removed and it is asked again.
"""

from __future__ import annotations

import io
import re
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import JpegImagePlugin

from services.upload_handler.memory import Afford
from utils.exceptions import ImageTooLarge, InvalidImage

Luma = NDArray[np.uint8]
MEASURED = 480  # points of width, at least, of what a picture's quality is measured on
_WINDOW = 524_288  # bytes searched without letting other threads run: a regular expression holds the GIL
_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_BETWEEN = re.compile(rb"\xff[^\x00\xff]")
_SAMPLING = re.compile(r"subsampling")  # libjpeg decodes any, the layer above it a list
_BEFORE_EOI = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = frozenset({0xC0, 0xC1})
# Application data, comments, DNL: what decoders pass over, whatever is in it. What they do not know they refuse.
_SKIPPED = frozenset({*range(0xE0, 0xF0), 0xFE, 0xDC})
_PADDING = bytes(8)  # behind a scan: as far as the decoder looks ahead
MAX_SCANS = 64  # progressive cameras and encoders write 10; each costs a pass over the whole picture
MAX_SEGMENTS = 20_000
_ROW_BYTES = 256  # a pixel of width: the coefficients of one row of blocks, and its samples, of four components


def _whole(pixels: int, unit: int) -> int:
    return -(-pixels // unit) * unit


class JpegFacts(NamedTuple):
    width: int
    height: int
    exif: bytes | None
    luma: Luma  # of a part of its size


class _Layout:
    """Where things are: found by walking the markers from the start to the first EOI."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.frame: tuple[int, int, int] | None = None  # marker, offset of its segment, end
        self.exif: bytes | None = None
        self.parts: list[tuple[int, int, int]] = []  # marker, start (of its FF), end; a scan with its data
        self._walk()

    def _walk(self) -> None:
        data, at, scans = self.data, 2, 0
        for _ in range(MAX_SEGMENTS):
            at = self._find(_BETWEEN, at)
            marker = data[at + 1]
            if marker == 0xD9:
                return
            if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # stands alone
                at += 2
                continue
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if marker in _SKIPPED:
                end = max(end, at + 4)  # decoders do not mind a length that is none
            if end < at + 4 or end > len(data):
                raise InvalidImage("A segment of the JPEG is cut off or malformed.")
            if marker == 0xDA:
                scans += 1
                if scans > MAX_SCANS:
                    raise InvalidImage(f"The JPEG has more than {MAX_SCANS} scans.")
                end = self._find(_IN_SCAN, end)
            elif marker in _FRAMES:
                if self.frame is not None:
                    raise InvalidImage("The JPEG has two frame headers.")
                self.frame = (marker, at + 4, end)
            elif marker == 0xE1 and self.exif is None and data[at + 4 : at + 10] == b"Exif\0\0":
                self.exif = data[at + 10 : end]
            self.parts.append((marker, at, end))
            at = end
        raise InvalidImage("The JPEG has too many segments.")

    def _find(self, pattern: re.Pattern[bytes], at: int) -> int:
        """Where the next marker begins."""
        while at < len(self.data):
            stop = min(at + _WINDOW, len(self.data))
            match = pattern.search(self.data, at, stop)
            if match:
                return match.start()
            if stop == len(self.data):
                break
            at = stop - 1 if self.data[stop - 1] == 0xFF else stop  # the window may have cut a marker
        raise InvalidImage("The JPEG ends before its end marker: it is cut off.")

    def size(self) -> tuple[int, int]:
        """Width and height."""
        if self.frame is None or not any(marker == 0xDA for marker, _, _ in self.parts):
            raise InvalidImage("The JPEG has no picture in it.")
        _, at, end = self.frame
        header = self.data[at:end]
        if len(header) < 9 or len(header) < 6 + 3 * header[5]:
            raise InvalidImage("The JPEG's frame header is malformed.")
        width, height = int.from_bytes(header[3:5], "big"), int.from_bytes(header[1:3], "big")
        if not width or not height:
            raise InvalidImage("The JPEG's frame header has no size.")
        return width, height

    def coefficient_bytes(self) -> int:
        """Memory that decoding needs for all coefficients; 0 when it goes row by row (one scan)."""
        if self.frame is None or sum(marker == 0xDA for marker, _, _ in self.parts) < 2:
            return 0
        width, height = self.size()
        _, at, _ = self.frame
        factors = [(self.data[i] >> 4, self.data[i] & 15) for i in range(at + 7, at + 6 + 3 * self.data[at + 5], 3)]
        across, down = max(h for h, _ in factors), max(v for _, v in factors)
        # In whole blocks of 8 x 8 pixels of the component that has the most.
        samples = _whole(width, 8 * across) * _whole(height, 8 * down)
        return 2 * samples * sum(h * v for h, v in factors) // (across * down)

    def bare(self) -> bytearray:
        """The same picture without what is no part of it: bytes between segments, application data, odd scan ends."""
        pieces: list[bytes | memoryview] = [b"\xff\xd8"]
        sequential = self.frame is not None and self.frame[0] in _SEQUENTIAL
        whole = memoryview(self.data)  # slices of it are no copies
        for marker, start, end in self.parts:
            if marker == 0xDA and sequential:
                tail = start + 5 + 2 * self.data[start + 4]  # spectral selection and approximation: fixed for these
                if tail + 3 < end:
                    pieces += [whole[start:tail], b"\x00\x3f\x00", whole[tail + 3 : end]]
                    continue
            if marker not in _SKIPPED:
                pieces.append(whole[start:end])
        return bytearray().join([*pieces, b"\xff\xd9"])


def _decode(data: bytes | bytearray, width: int) -> Luma | str:
    """In grey, made smaller but not below `width`, every bit of the scans read; or the first warning or error."""
    try:
        # It scales down only as far as the least size allows, which has to be said.
        grey = simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=width, fastdct=True, fastupsample=True)
    except ValueError as error:
        return str(error)
    return np.asarray(grey[:, :, 0], np.uint8)


def _decode_odd_sampling(layout: _Layout) -> Luma:
    """By Pillow, without an end marker: so a decoder that has not had every block asks for more, and is refused.

    A cut of less than the padding, 8 bytes, or one that was filled with zeros, is not seen.
    """
    whole = layout.bare()
    whole[-2:] = _PADDING
    with JpegImagePlugin.JpegImageFile(io.BytesIO(whole)) as image:
        image.draft("L", (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
        return np.asarray(image.convert("L"), np.uint8)


def check_jpeg(data: bytes, max_pixels: int, afford: Afford) -> JpegFacts:
    """Raises InvalidImage, ImageTooLarge or NeedsMemory. What follows the first picture (MPO, trailers) is not looked at.

    Memory: a 64th of the pixels; of a progressive JPEG its coefficients, bounded to `max_pixels` x 4 bytes.
    """
    layout = _Layout(data)
    width, height = layout.size()
    if width * height > max_pixels or layout.coefficient_bytes() > 4 * max_pixels:
        raise ImageTooLarge()
    # What is decoded is at most twice as wide as asked for, or an eighth.
    decoded = max(width * height // 64, 4 * MEASURED * (-(-MEASURED * height // width) + 8))
    afford(layout.coefficient_bytes() + min(decoded, width * height) + _ROW_BYTES * width)
    least = min(width, max(MEASURED, width // 8))
    seen = _decode(data, least)
    if isinstance(seen, str) and _SAMPLING.search(seen):
        seen = _decode_odd_sampling(layout)
    elif isinstance(seen, str):
        bare = layout.bare()
        seen = _decode(bare, least)
        padding = _BEFORE_EOI.search(seen) if isinstance(seen, str) else None
        if padding:  # the scans are complete; some cameras pad them
            del bare[len(bare) - 2 - int(padding[1]) :]
            bare += b"\xff\xd9"
            seen = _decode(bare, least)
    if isinstance(seen, str):
        raise InvalidImage("The JPEG's picture data is cut off or damaged.")
    return JpegFacts(width, height, layout.exif, seen)
