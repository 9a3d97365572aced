"""The check of one file as its caller sees it: what a worker process is asked, and what its answer means. Conversions too.

No decoder is imported here: Pillow and the others are 0.15 s of CPU, and only workers (`check_job`, `jpeg_job`) decode.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

from models.values import ReceivedFile
from services.rtsp_capture.media.seen import Seen
from services.upload_handler.memory import MARGIN, to_read
from utils.exceptions import (
    ImageTooLarge,
    ImageTypeMismatch,
    IngestionException,
    InvalidImage,
    PayloadTooLarge,
    UnsupportedImageFormat,
)

Packed = tuple[list[Any], bytes]  # measures of a picture, as services/quality/measures.py packs them
_PIXEL = 32  # bytes a pixel while `to_jpeg` decodes and changes it
_REDUCED = 8  # bytes a pixel of a JPEG that is decoded at half its size or less; a progressive one keeps its coefficients
SOURCES = frozenset(("h264", "h265"))  # what a camera's own keyframe is stored as
_DECODER = 67_108_864  # bytes that FFmpeg takes beside its pictures
_HELD = 80  # bytes a pixel of a source picture: its decoder may hold 20 pictures, though one comes
CHECK = "services.upload_handler.check_job:check"
MOST_BACK = 65_536  # bytes that `check_bytes` may answer with: a view of 160 x 160 points at most
CHECK_BYTES = "services.upload_handler.check_job:check_bytes"
_REFUSALS: dict[str, type[IngestionException]] = {
    kind.code: kind for kind in (ImageTooLarge, ImageTypeMismatch, InvalidImage, PayloadTooLarge, UnsupportedImageFormat)
}


class CheckedImage(NamedTuple):
    """A picture that decodes whole; width and height as in the file, not rotated."""

    format: str
    content_type: str
    width: int
    height: int
    exif: dict[str, Any] | None
    measures: Packed | None = None  # None: it could not be measured


def arguments(file: ReceivedFile, formats: Sequence[str], max_pixels: int, memory: int, most: int) -> list[Any]:
    """What `check` is called with; `check_bytes` gets the file's bytes besides. `most`: bytes that could be granted."""
    about = [file.filename, file.declared_type, str(file.path), file.size, file.too_large]
    return [about, list(formats), max_pixels, memory, most]


class Converted(NamedTuple):
    """A JPEG; empty where a source picture has nothing that could be decoded. `seen`: of a source picture; None: of other
    kinds, which were checked before they were stored."""

    data: bytes
    seen: Seen | None


def conversion(name: str, kind: str) -> str:
    """The job of that name (to_jpeg, thumbnail, whole_jpeg) for pictures of this kind."""
    return f"services.upload_handler.{'source_job' if kind in SOURCES else 'jpeg_job'}:{name}"


def memory_of(kind: str, size_bytes: int, width: int, height: int, *, reduced: bool = False) -> int:
    """Bytes that a conversion to JPEG takes at most. `reduced`: of a JPEG, to a smaller one."""
    if kind in SOURCES:
        return to_read(size_bytes) + _DECODER + _HELD * width * height
    return to_read(size_bytes) + MARGIN + (_REDUCED if reduced else _PIXEL) * width * height


def image_of(answer: dict[str, Any], view: bytes = b"") -> CheckedImage:
    """The picture that a worker answered with. `view`: of its measures, where it came beside the JSON. Raises the refusal,
    or OSError.

    The answer comes from a process that a picture may have taken over: whatever is wrong with it is a refusal.
    """
    try:
        if "refused" in answer:
            code, message = answer["refused"]
            raise _REFUSALS[code](str(message))
        if "errno" in answer:
            raise OSError(answer["errno"], "the temporary file cannot be read")
        fmt, content_type, width, height, exif = answer["image"]
        size, measures = (int(width), int(height)), answer.get("measures")
        packed = None if measures is None else (list(measures), view or base64.b64decode(answer["view"]))
    except (IndexError, KeyError, TypeError, ValueError):
        raise InvalidImage() from None
    return CheckedImage(str(fmt), str(content_type), *size, exif, packed)
