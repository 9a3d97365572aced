"""The check of one file as a job of a worker process: JSON in, JSON out (utils/process_pool.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from models.values import ReceivedFile
from services.upload_handler.memory import NeedsMemory
from services.upload_handler.validation import CheckedImage, check_image
from utils.exceptions import (
    ImageTooLarge,
    ImageTypeMismatch,
    IngestionException,
    InvalidImage,
    PayloadTooLarge,
    UnsupportedImageFormat,
)

CHECK = f"{__name__}:check"
_REFUSALS: dict[str, type[IngestionException]] = {
    kind.code: kind for kind in (ImageTooLarge, ImageTypeMismatch, InvalidImage, PayloadTooLarge, UnsupportedImageFormat)
}


def arguments(file: ReceivedFile, formats: Sequence[str], max_pixels: int, memory: int) -> list[Any]:
    """What `check` is called with."""
    about = [file.filename, file.declared_type, str(file.path), file.size, file.too_large]
    return [about, list(formats), max_pixels, memory]


def check(about: list[Any], formats: list[str], max_pixels: int, memory: int) -> dict[str, Any]:
    """In the worker. One of: `image`, `refused` (code, message), `needs` (bytes), `errno` (of the temporary file)."""
    filename, declared_type, path, size, too_large = about
    # Our own limits come first; Pillow's must not be the smaller one when the operator allows larger pictures.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)
    file = ReceivedFile(0, filename, declared_type, Path(path), size, "", too_large)
    try:
        return {"image": check_image(file, formats, max_pixels, memory)}
    except NeedsMemory as error:
        return {"needs": error.size}
    except IngestionException as error:
        return {"refused": [error.code, error.message]}
    except OSError as error:
        return {"errno": error.errno}


def image_of(answer: dict[str, Any]) -> CheckedImage:
    """The picture that a worker answered with. Raises the refusal, or OSError.

    The answer comes from a process that a picture may have taken over: whatever is wrong with it is a refusal.
    """
    try:
        if "refused" in answer:
            code, message = answer["refused"]
            raise _REFUSALS[code](str(message))
        if "errno" in answer:
            raise OSError(answer["errno"], "the temporary file cannot be read")
        fmt, content_type, width, height, exif = answer["image"]
    except (KeyError, TypeError, ValueError):
        raise InvalidImage() from None
    return CheckedImage(str(fmt), str(content_type), int(width), int(height), exif)
