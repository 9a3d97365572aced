"""Is this file the picture that it claims to be, whole, and within the limits? Runs in a worker thread.

Order: name, magic bytes against name and declared type, structure and sizes by our own walkers, then a full
decode. Only errors of utils.exceptions come out, whatever the bytes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from PIL import BmpImagePlugin, Image, ImageFile, PngImagePlugin, TiffImagePlugin

from models.values import ReceivedFile
from services.upload_handler.exif import read_exif
from services.upload_handler.jpeg_check import check_jpeg
from services.upload_handler.png_check import check_png
from services.upload_handler.tiff_check import check_tiff
from utils.exceptions import (
    ImageTooLarge,
    ImageTypeMismatch,
    IngestionException,
    InvalidImage,
    PayloadTooLarge,
    UnsupportedImageFormat,
)
from utils.logger import get_logger

MAX_PAGES = 100
MAX_RLE_PIXELS = 4_000_000  # Pillow decodes run-length BMPs in Python
CONTENT_TYPES = {"jpg": "image/jpeg", "png": "image/png", "bmp": "image/bmp", "tiff": "image/tiff"}
_EXTENSIONS = {"jpg": "jpg", "jpeg": "jpg", "png": "png", "bmp": "bmp", "tif": "tiff", "tiff": "tiff"}
_DECLARED = {
    "image/jpeg": "jpg", "image/jpg": "jpg", "image/pjpeg": "jpg", "image/x-jpeg": "jpg",
    "image/png": "png", "image/x-png": "png", "image/apng": "png", "image/vnd.mozilla.apng": "png",
    "image/bmp": "bmp", "image/x-bmp": "bmp", "image/x-ms-bmp": "bmp", "image/x-windows-bmp": "bmp",
    "image/tiff": "tiff", "image/tif": "tiff", "image/x-tiff": "tiff", "image/x-tif": "tiff",
}  # fmt: skip
_NO_TYPE = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_MAGIC = (
    (b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"BM", "bmp"),
    (b"II*\0", "tiff"), (b"MM\0*", "tiff"), (b"II+\0", "tiff"), (b"MM\0+", "tiff"),
)  # fmt: skip
_PILLOW: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "png": PngImagePlugin.PngImageFile, "bmp": BmpImagePlugin.BmpImageFile, "tiff": TiffImagePlugin.TiffImageFile,
}  # fmt: skip
_log = get_logger(__name__)
# Pillow warns of odd EXIF and large pictures on stderr; neither is for the operator.
warnings.filterwarnings("ignore", module=r"PIL\.")


class CheckedImage(NamedTuple):
    """A picture that decodes whole; width and height as in the file, not rotated."""

    format: str
    content_type: str
    width: int
    height: int
    exif: dict[str, Any] | None


def format_by_name(filename: str | None, allowed: list[str]) -> str:
    """The format that a file's name promises. Raises UnsupportedImageFormat."""
    _, dot, extension = (filename or "").rpartition(".")
    extension = extension.lower()
    if not dot or extension not in allowed or extension not in _EXTENSIONS:
        raise UnsupportedImageFormat(f"The file's name must end in one of {', '.join(allowed)}.")
    return _EXTENSIONS[extension]


def _sniffed(head: bytes) -> str | None:
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def _decode(data: bytes, fmt: str, max_pixels: int, pages: int) -> tuple[int, int]:
    """Every page through Pillow, one in memory at a time; the first one's size."""
    with _PILLOW[fmt](io.BytesIO(data)) as image:
        size = image.size
        if size[0] * size[1] > max_pixels:
            raise ImageTooLarge()
        if any(tile.codec_name == "bmp_rle" for tile in image.tile) and size[0] * size[1] > MAX_RLE_PIXELS:
            raise ImageTooLarge("Run-length coded BMPs are taken up to 4 megapixels.")
        for page in range(pages):
            if page:
                image.seek(page)
                if image.size[0] * image.size[1] > max_pixels:
                    raise ImageTooLarge()
            image.load()
    return size


def _checked(data: bytes, fmt: str, max_pixels: int) -> tuple[int, int, bytes | None]:
    """Width, height and EXIF block."""
    if fmt == "jpg":
        return check_jpeg(data, max_pixels)
    if fmt == "png":
        png = check_png(data, max_pixels, MAX_PAGES)
        return *_decode(data, fmt, max_pixels, png.frames), png.exif
    if fmt == "tiff":
        pages = check_tiff(data, max_pixels, MAX_PAGES)
        _decode(data, fmt, max_pixels, len(pages))
        return pages[0].width, pages[0].height, data
    return *_decode(data, fmt, max_pixels, 1), None


def check_image(file: ReceivedFile, allowed_extensions: list[str], max_pixels: int) -> CheckedImage:
    """Raises PayloadTooLarge, UnsupportedImageFormat, ImageTypeMismatch, ImageTooLarge or InvalidImage.

    Memory: the file, and `max_pixels` x 4 bytes. OSError only when the temporary file cannot be read.
    """
    if file.too_large:
        raise PayloadTooLarge("The file is larger than UPLOAD__MAX_FILE_SIZE.")
    if file.size == 0:
        raise InvalidImage("The file is empty.")
    named = format_by_name(file.filename, allowed_extensions)
    # Read, not mapped: an I/O error on a mapped page would end the process.
    with file.path.open("rb") as stream:
        head = stream.read(16)
        fmt = _sniffed(head)
        declared = file.declared_type or ""
        if fmt != named or (declared not in _NO_TYPE and _DECLARED.get(declared) != fmt):
            raise ImageTypeMismatch()
        stream.seek(0)
        data = stream.read()
    if len(data) != file.size:
        raise OSError("the temporary file is not as long as what was received")
    try:
        width, height, exif = _checked(data, fmt, max_pixels)
    except IngestionException:
        raise
    except Image.DecompressionBombError:
        raise ImageTooLarge() from None
    except MemoryError:
        raise ImageTooLarge("The picture needs more memory than there is.") from None
    except Exception as error:
        # Decoders raise anything: OSError, SyntaxError, struct.error, zlib.error, IndexError, RecursionError ...
        _log.info("upload.undecodable", format=fmt, error=type(error).__name__)
        raise InvalidImage() from None
    return CheckedImage(fmt, CONTENT_TYPES[fmt], width, height, read_exif(exif))
