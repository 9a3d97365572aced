"""A stored picture of any kind as a JPEG that browsers show: a job of a worker process, JSON in, JSON out."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from services.upload_handler.validation import pillow_image

LONGEST = 1920  # pixels of the longer side
_ON_ITS_SIDE = (5, 6, 7, 8)  # EXIF's orientations whose width is the picture's height
_TALLEST = 4  # times as high as wide: a strip becomes a narrower thumbnail
_MAX_PROFILE = 4_096  # bytes
_THUMBNAIL_QUALITY = 82
_MAX_BYTES = 700_000  # of the JPEG: an answer of a worker has at most 1 MiB, in base64


def to_jpeg(path: str, kind: str, max_pixels: int) -> str:
    """In the worker: the first page or frame, upright, at most LONGEST pixels wide and high; base64."""
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)
    with pillow_image(kind, io.BytesIO(Path(path).read_bytes())) as image:
        image.load()
        shown = _eight_bits(image)
        shown.thumbnail((LONGEST, LONGEST))
        shown = ImageOps.exif_transpose(_opaque(shown))
    for quality in (85, 70, 50):
        out = io.BytesIO()
        shown.save(out, "JPEG", quality=quality)
        if out.tell() <= _MAX_BYTES:
            break
    else:
        shown.thumbnail((LONGEST // 2, LONGEST // 2))
        out = io.BytesIO()
        shown.save(out, "JPEG", quality=50)
    return base64.b64encode(out.getvalue()).decode()


def thumbnail(path: str, kind: str, max_pixels: int, width: int) -> str:
    """In the worker: the first page or frame, upright, at most `width` pixels wide, without EXIF; base64.

    A JPEG is decoded at an eighth, a quarter or half of its size where that is enough. A small picture is not enlarged.
    """
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)
    with pillow_image(kind, io.BytesIO(Path(path).read_bytes())) as image:
        lies = image.getexif().get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
        box = (_TALLEST * width, width) if lies else (width, _TALLEST * width)
        profile = image.info.get("icc_profile", b"") if image.mode == "RGB" else b""
        image.draft(image.mode if image.mode in ("L", "RGB") else None, (2 * width, 2 * width))
        image.load()
        shown = _eight_bits(image)
        shown.thumbnail(box, Image.Resampling.LANCZOS, reducing_gap=2.0)
        shown = ImageOps.exif_transpose(_opaque(shown))
    out = io.BytesIO()
    kept = {"icc_profile": profile} if 0 < len(profile) <= _MAX_PROFILE else {}  # a phone's wide colours stay as they are
    shown.save(out, "JPEG", quality=_THUMBNAIL_QUALITY, optimize=True, exif=b"", **kept)
    return base64.b64encode(out.getvalue()).decode()


def _eight_bits(image: ImageFile.ImageFile) -> Image.Image:
    """16 bits a sample become their upper 8: Pillow would clip them."""
    if image.mode.startswith("I"):
        exif = image.info.get("exif")
        grey = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        if exif is not None:
            grey.info["exif"] = exif
        return grey
    return image if image.mode != "P" else image.convert("RGBA" if "transparency" in image.info else "RGB")


def _opaque(image: Image.Image) -> Image.Image:
    """On white, in the modes that JPEG has."""
    if image.mode in ("RGBA", "LA", "La", "RGBa"):
        layer = image.convert("RGBA")
        flat = Image.new("RGB", layer.size, "white")
        flat.paste(layer, mask=layer.getchannel("A"))
        flat.info.update({name: value for name, value in image.info.items() if name == "exif"})
        return flat
    return image if image.mode in ("RGB", "L") else image.convert("RGB")
