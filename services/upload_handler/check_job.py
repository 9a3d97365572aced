"""The check of one file as a job of a worker process: JSON in, JSON out (utils/process_pool.py). `check_call` asks."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from PIL import Image

from models.values import ReceivedFile
from services.upload_handler.memory import NeedsMemory
from services.upload_handler.validation import check_image
from utils.exceptions import IngestionException


def check_bytes(
    about: list[Any], formats: list[str], max_pixels: int, memory: int, most: int, data: bytes
) -> tuple[dict[str, Any], bytes]:
    """`check` of a file that came with the job; what is measured of it goes back as the job's bytes."""
    answer, view = _checked(about, formats, max_pixels, memory, most, data)
    return answer, view


def check(about: list[Any], formats: list[str], max_pixels: int, memory: int, most: int) -> dict[str, Any]:
    """In the worker. One of: `image`, `refused` (code, message), `needs` (bytes), `errno` (of the temporary file)."""
    answer, view = _checked(about, formats, max_pixels, memory, most, None)
    return {**answer, "view": base64.b64encode(view).decode()} if view else answer


def _checked(
    about: list[Any], formats: list[str], max_pixels: int, memory: int, most: int, data: bytes | None
) -> tuple[dict[str, Any], bytes]:
    """What `check` answers, and the measures' view; empty without measures."""
    filename, declared_type, path, size, too_large = about
    # Our own limits come first; Pillow's must not be the smaller one when the operator allows larger pictures.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)
    file = ReceivedFile(0, filename, declared_type, Path(path), size, "", too_large, data)
    try:
        *image, measures = check_image(file, formats, max_pixels, memory, most)
        if measures is None:
            return {"image": image}, b""
        return {"image": image, "measures": measures[0]}, measures[1]
    except NeedsMemory as error:
        return {"needs": error.size}, b""
    except IngestionException as error:
        return {"refused": [error.code, error.message]}, b""
    except OSError as error:
        return {"errno": error.errno}, b""
