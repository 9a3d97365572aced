"""Is this file the picture that it claims to be, whole, and within the limits? Runs in a worker process.

Order: name, magic bytes against name and declared type, structure, sizes and the memory that decoding takes by our own
walkers, then a full decode. Only errors of utils.exceptions come out, whatever the bytes, and NeedsMemory.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from pi_heif import options as heif_options
from pi_heif.as_plugin import HeifImageFile
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from models.values import ReceivedFile
from services.quality.measures import measure, packed
from services.upload_handler.check_call import CheckedImage, Packed
from services.upload_handler.exif import read_exif
from services.upload_handler.formats import CONTENT_TYPES, format_by_name
from services.upload_handler.heif_check import check_heif, heif_kind
from services.upload_handler.jpeg_check import Luma, check_jpeg
from services.upload_handler.memory import Afford, NeedsMemory, granted, to_read
from services.upload_handler.png_check import check_png
from services.upload_handler.tiff_check import check_tiff
from services.upload_handler.webp_check import check_webp
from utils.exceptions import (
    ImageTooLarge,
    ImageTypeMismatch,
    IngestionException,
    InvalidImage,
    PayloadTooLarge,
    UnsupportedImageFormat,
)

MAX_PAGES = 100
_PNG_PIXEL = 8  # bytes, of the decoded picture
MEASURED_SIDE = 960  # points, at least, of what a picture's quality is measured on
NO_LIMIT = 1 << 62  # bytes
MAX_RLE_PIXELS = 4_000_000  # Pillow decodes run-length BMPs in Python
_DECLARED = {
    "image/jpeg": "jpg", "image/jpg": "jpg", "image/pjpeg": "jpg", "image/x-jpeg": "jpg",
    "image/png": "png", "image/x-png": "png", "image/apng": "png", "image/vnd.mozilla.apng": "png",
    "image/bmp": "bmp", "image/x-bmp": "bmp", "image/x-ms-bmp": "bmp", "image/x-windows-bmp": "bmp",
    "image/tiff": "tiff", "image/tif": "tiff", "image/x-tiff": "tiff", "image/x-tif": "tiff",
    "image/heic": "heic", "image/heif": "heic", "image/webp": "webp", "image/avif": "avif",
}  # fmt: skip
_NO_TYPE = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_MAGIC = (
    (b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"BM", "bmp"),
    (b"II*\0", "tiff"), (b"MM\0*", "tiff"), (b"II+\0", "tiff"), (b"MM\0+", "tiff"),
)  # fmt: skip
_PILLOW: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "png": PngImagePlugin.PngImageFile, "bmp": BmpImagePlugin.BmpImageFile, "tiff": TiffImagePlugin.TiffImageFile,
    "heic": HeifImageFile, "webp": WebPImagePlugin.WebPImageFile, "avif": AvifImagePlugin.AvifImageFile,
}  # fmt: skip
# One thread a file: a thread's stack counts as memory, and there are as many processes as are wanted.
AvifImagePlugin.DEFAULT_MAX_THREADS = heif_options.DECODE_THREADS = 1
heif_options.THUMBNAILS = heif_options.DEPTH_IMAGES = heif_options.AUX_IMAGES = False
# Pillow warns of odd EXIF and large pictures on stderr; neither is for the operator.
warnings.filterwarnings("ignore", module=r"PIL\.")


def pillow_image(kind: str, stream: io.BytesIO) -> ImageFile.ImageFile:
    """The file as Pillow's class for its kind opens it; a JPEG, too. Raises what Pillow raises."""
    return JpegImagePlugin.JpegImageFile(stream) if kind == "jpg" else _PILLOW[kind](stream)


def _sniffed(head: bytes) -> str | None:
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None) or heif_kind(head)


def _bmp_memory(image: ImageFile.ImageFile) -> int:
    """Bytes of the decoded picture; run-length coded ones are decoded in Python, twice copied."""
    pixel = 1 if image.mode in ("1", "L", "P") else 4
    coded = any(tile.codec_name == "bmp_rle" for tile in image.tile)
    return image.size[0] * image.size[1] * (pixel + (3 if coded else 0))


def _decode(
    data: bytes, fmt: str, max_pixels: int, pages: int, afford: Afford | None = None
) -> tuple[int, int, Luma | None]:
    """Every page through Pillow, one in memory at a time; the first one's size, and what is measured of it.

    `afford`: of a BMP, whose header is Pillow's to read."""
    with _PILLOW[fmt](io.BytesIO(data)) as image:
        size = image.size
        if size[0] * size[1] > max_pixels:
            raise ImageTooLarge()
        if any(tile.codec_name == "bmp_rle" for tile in image.tile) and size[0] * size[1] > MAX_RLE_PIXELS:
            raise ImageTooLarge("Run-length coded BMPs are taken up to 4 megapixels.")
        if afford is not None:
            afford(_bmp_memory(image))
        for page in range(pages):
            if page:
                image.seek(page)
                if image.size[0] * image.size[1] > max_pixels:
                    raise ImageTooLarge()
            image.load()
            if not page:
                grey = _grey(image)
    return *size, grey


def _png_grey(data: bytes, pixels: int, max_pixels: int, afford: Afford, most: int) -> Luma | None:
    """Of a picture that is known to be whole, and has not been decoded. None where that takes more memory than `most`, or
    Pillow's reader is stricter: it refuses nothing."""
    if to_read(len(data)) + _PNG_PIXEL * pixels > most:
        return None
    afford(_PNG_PIXEL * pixels)
    try:
        return _decode(data, "png", max_pixels, 1)[2]
    except Exception:
        return None


def _grey(image: Image.Image) -> Luma | None:
    """A loaded picture in grey, made smaller in little memory. None where that fails: it refuses no file."""
    try:
        part = max(1, min(max(image.size) // MEASURED_SIDE, *image.size))
        if image.mode not in ("L", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):  # of others a mean is none, or takes more
            part *= 2
            image = image.resize((max(1, image.width // part), max(1, image.height // part)), Image.Resampling.NEAREST)
            part = 1
        less = image.reduce(part) if part > 1 else image
        if less.mode.startswith(("I", "F")):  # numbers of any range
            deep = np.asarray(less, np.float32)
            low, high = float(deep.min()), float(deep.max())
            return np.asarray((deep - low) * (255.0 / max(high - low, 1.0)), np.uint8)
        return np.asarray(less.convert("L"), np.uint8)
    except Exception:
        return None


def _checked(
    data: bytes, fmt: str, max_pixels: int, afford: Afford, most: int
) -> tuple[int, int, bytes | None, Luma | None]:  # fmt: skip
    """Width, height, EXIF block, and what is measured of the picture."""
    if fmt == "jpg":
        return check_jpeg(data, max_pixels, afford)
    if fmt == "png":
        png = check_png(data, max_pixels, MAX_PAGES)
        if png.frames > 1:
            afford(png.memory)
            *_, seen = _decode(data, fmt, max_pixels, png.frames)
            return png.width, png.height, png.exif, seen
        return png.width, png.height, png.exif, _png_grey(data, png.width * png.height, max_pixels, afford, most)
    if fmt == "tiff":
        pages = check_tiff(data, max_pixels, MAX_PAGES)
        afford(max(page.memory for page in pages) + (max(page.stored for page in pages) if len(pages) > 1 else 0))
        *_, grey = _decode(data, fmt, max_pixels, len(pages))
        return pages[0].width, pages[0].height, data, grey
    if fmt == "bmp":
        width, height, grey = _decode(data, fmt, max_pixels, 1, afford)
        return width, height, None, grey
    if fmt == "webp":
        webp = check_webp(data, max_pixels, MAX_PAGES)
        afford(webp.memory)
    else:
        afford(check_heif(data, max_pixels).memory)
    with _PILLOW[fmt](io.BytesIO(data)) as image:
        exif = image.info.get("exif")
    width, height, grey = _decode(data, fmt, max_pixels, webp.frames if fmt == "webp" else 1)
    return width, height, exif if isinstance(exif, bytes) else None, grey


def _measured(grey: Luma | None, width: int, height: int) -> Packed | None:
    """None where that fails, which refuses no file."""
    try:
        return packed(measure(grey, width, height)) if grey is not None else None
    except Exception:
        return None


def check_image(
    file: ReceivedFile, formats: Sequence[str], max_pixels: int, memory: int = NO_LIMIT, most: int = NO_LIMIT
) -> CheckedImage:  # fmt: skip
    """Raises PayloadTooLarge, UnsupportedImageFormat, ImageTypeMismatch, ImageTooLarge or InvalidImage.

    NeedsMemory when it would take more than `memory` bytes, which must be enough to read the file (memory.to_read).
    OSError only when the temporary file cannot be read. `most`: bytes that it could be granted.
    """
    if file.too_large:
        raise PayloadTooLarge("The file is larger than UPLOAD__MAX_FILE_SIZE.")
    if file.size == 0:
        raise InvalidImage("The file is empty.")
    named = format_by_name(file.filename, formats)
    # Read, not mapped: an I/O error on a mapped page would end the process.
    with file.path.open("rb") if file.data is None else io.BytesIO(file.data) as stream:
        head = stream.read(256)
        fmt = _sniffed(head)
        declared = file.declared_type or ""
        if (named and fmt != named) or (declared not in _NO_TYPE and _DECLARED.get(declared, "") != fmt):
            raise ImageTypeMismatch()
        if fmt is None or fmt not in formats:
            raise UnsupportedImageFormat(f"The file is not one of {', '.join(formats)}.")
        stream.seek(0)
        data = stream.read()
    if len(data) != file.size:
        raise OSError("the temporary file is not as long as what was received")
    try:
        width, height, exif, grey = _checked(data, fmt, max_pixels, granted(len(data), memory), most)
    except (IngestionException, NeedsMemory):
        raise
    except Image.DecompressionBombError:
        raise ImageTooLarge() from None
    except MemoryError:
        raise ImageTooLarge("The picture needs more memory than there is.") from None
    except Exception:
        # Decoders raise anything: OSError, SyntaxError, struct.error, zlib.error, IndexError, RecursionError ...
        raise InvalidImage() from None
    return CheckedImage(fmt, CONTENT_TYPES[fmt], width, height, read_exif(exif), _measured(grey, width, height))
