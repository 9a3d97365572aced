"""A stored picture as a JPEG that browsers show: jobs of a worker process. Source pictures: `source_job`."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from services.upload_handler.validation import pillow_image

LONGEST = 1920  # pixels of the longer side
_ON_ITS_SIDE = (5, 6, 7, 8)  # EXIF's orientations whose width is the picture's height
_TALLEST = 4  # times as high as wide: a strip becomes a narrower thumbnail
_MAX_PROFILE = 4_096  # bytes
WHOLE_QUALITY, _SHOWN_QUALITY, _THUMBNAIL_QUALITY = 90, 85, 82


def whole_jpeg(kind: str, max_pixels: int, data: bytes) -> tuple[dict[str, Any], bytes]:
    """In the worker: the first page or frame in its size, upright, without EXIF."""
    with _opened(kind, max_pixels, data) as image:
        image.load()
        return {}, _saved(ImageOps.exif_transpose(_opaque(_eight_bits(image))), WHOLE_QUALITY)


def to_jpeg(kind: str, max_pixels: int, data: bytes) -> tuple[dict[str, Any], bytes]:
    """In the worker: the first page or frame, upright, at most LONGEST pixels wide and high."""
    with _opened(kind, max_pixels, data) as image:
        image.load()
        return {}, shown(_eight_bits(image))


def shown(image: Image.Image) -> bytes:
    """At most LONGEST pixels wide and high."""
    image.thumbnail((LONGEST, LONGEST))
    return _saved(ImageOps.exif_transpose(_opaque(image)), _SHOWN_QUALITY)


def thumbnail(kind: str, max_pixels: int, width: int, data: bytes) -> tuple[dict[str, Any], bytes]:
    """In the worker: the first page or frame, upright, at most `width` pixels wide, without EXIF.

    A JPEG is decoded at an eighth, a quarter or half of its size where that is enough. A small picture is not enlarged.
    """
    with _opened(kind, max_pixels, data) as image:
        image.draft(image.mode if image.mode in ("L", "RGB") else None, (2 * width, 2 * width))
        lies = image.getexif().get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
        profile = image.info.get("icc_profile", b"") if image.mode == "RGB" else b""
        image.load()
        return {}, small(_eight_bits(image), width, lies=lies, profile=profile)


def small(image: Image.Image, width: int, *, lies: bool = False, profile: bytes = b"") -> bytes:
    """At most `width` pixels wide when it is upright. `lies`: it is to be turned."""
    box = (_TALLEST * width, width) if lies else (width, _TALLEST * width)
    image.thumbnail(box, Image.Resampling.LANCZOS, reducing_gap=2.0)
    kept = {"icc_profile": profile} if 0 < len(profile) <= _MAX_PROFILE else {}  # a phone's wide colours stay as they are
    return _saved(ImageOps.exif_transpose(_opaque(image)), _THUMBNAIL_QUALITY, optimize=True, **kept)


def _opened(kind: str, max_pixels: int, data: bytes) -> ImageFile.ImageFile:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)
    return pillow_image(kind, io.BytesIO(data))


def _saved(image: Image.Image, quality: int, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, exif=b"", **options)
    return out.getvalue()


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
