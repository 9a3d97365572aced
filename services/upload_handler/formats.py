"""The picture formats that uploads may have, and which of them a file's name claims. No decoder is imported here."""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence

from utils.exceptions import UnsupportedImageFormat

CONTENT_TYPES = {
    "jpg": "image/jpeg", "png": "image/png", "bmp": "image/bmp", "tiff": "image/tiff", "heic": "image/heic",
    "webp": "image/webp", "avif": "image/avif",
}  # fmt: skip
_EXTENSIONS = {
    "jpg": "jpg", "jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "mpo": "jpg", "png": "png", "apng": "png", "bmp": "bmp",
    "dib": "bmp", "tif": "tiff", "tiff": "tiff", "heic": "heic", "heif": "heic", "hif": "heic", "webp": "webp",
    "avif": "avif",
}  # fmt: skip
_OTHER_KINDS = mimetypes.MimeTypes()  # the standard library's table, whatever the machine adds to it


def format_by_name(filename: str | None, formats: Sequence[str]) -> str | None:
    """The format that a file's name claims; None when it claims none. Raises UnsupportedImageFormat for another kind."""
    _, dot, extension = (filename or "").strip().lower().rpartition(".")
    known = _EXTENSIONS.get(extension) if dot else None
    other = None if known or not dot or extension == "bin" else _OTHER_KINDS.guess_type(f"a.{extension}")[0]
    if other or (known and known not in formats):
        raise UnsupportedImageFormat(f"The file's name is not that of one of {', '.join(formats)}.")
    return known
