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
    """`check` of a file that came with the job."""
    return check(about, formats, max_pixels, memory, most, data), b""


def check(
    about: list[Any], formats: list[str], max_pixels: int, memory: int, most: int, data: bytes | None = None
) -> dict[str, Any]:  # fmt: skip
    """In the worker. One of: `image`, `refused` (code, message), `needs` (bytes), `errno` (of the temporary file)."""
    filename, declared_type, path, size, too_large = about
    # Our own limits come first; Pillow's must not be the smaller one when the operator allows larger pictures.
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, max_pixels)
    file = ReceivedFile(0, filename, declared_type, Path(path), size, "", too_large, data)
    try:
        *image, measures = check_image(file, formats, max_pixels, memory, most)
        if measures is None:
            return {"image": image}
        numbers, view = measures
        return {"image": image, "measures": [numbers, base64.b64encode(view).decode()]}
    except NeedsMemory as error:
        return {"needs": error.size}
    except IngestionException as error:
        return {"refused": [error.code, error.message]}
    except OSError as error:
        return {"errno": error.errno}
