"""Object keys: never reused, never made of client input that was not checked."""

from __future__ import annotations

import re
import secrets
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from models.values import CAMERA_ID_PATTERN, FrameRecord

_CAMERA_ID = re.compile(CAMERA_ID_PATTERN)
_ATTEMPT = re.compile(r"[0-9a-f]{16}")
FRAMES_PREFIX = "frames/"
MARKER_KEY = ".trackshift/log"  # whose bucket it is (services/housekeeping/bucket_marker.py)
THUMBNAILS_PREFIX = "thumbnails/"
EXTENSION_OF = {"h264": "mp4", "h265": "mp4"}  # by format; of the others it is the format
THUMBNAIL_WIDTHS = (160, 320, 480, 640, 1024)  # pixels
_THUMBNAIL = re.compile(r"thumbnails/(?P<frame>.+)\.(?P<width>[0-9]{3,4})\.jpg")
EXTENSIONS = frozenset({"jpg", "png", "bmp", "tiff", "heic", "webp", "avif", "mp4"})
_FRAME_KEY = re.compile(
    r"frames/[0-9]{4}/[0-9]{2}/[0-9]{2}/(?P<camera>[^/]+)/"
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}-[0-9a-f]{16}\.(?P<ext>[a-z0-9]+)"
)


def fresh_object_key(camera_id: str, frame_id: UUID, at: datetime, fmt: str) -> str:
    """A key that no other PUT uses, so that a stalled earlier PUT can never replace this one's bytes.

    Raises ValueError as `object_key` does.
    """
    return object_key(camera_id, frame_id, at, secrets.token_hex(8), EXTENSION_OF.get(fmt, fmt))


def is_frame_key(key: str) -> bool:
    """Whether `object_key` could have made it: what has another form is not this service's, and left alone."""
    found = _FRAME_KEY.fullmatch(key)
    if found is None or found["ext"] not in EXTENSIONS:
        return False
    return _CAMERA_ID.fullmatch(found["camera"]) is not None and found["camera"].strip(".") != ""


def thumbnail_key(frame_key: str, width: int) -> str:
    """Where the frame's thumbnail of that width is. Made of the frame's key: nothing else says that there may be one."""
    return f"{THUMBNAILS_PREFIX}{frame_key.removeprefix(FRAMES_PREFIX)}.{width}.jpg"


def thumbnail_keys(frame_key: str) -> list[str]:
    """Where thumbnails of the frame may be."""
    return [thumbnail_key(frame_key, width) for width in THUMBNAIL_WIDTHS]


def frame_key_of(thumbnail: str) -> str | None:
    """The key of the frame whose thumbnail lies there; None for a key that `thumbnail_key` could not have made."""
    found = _THUMBNAIL.fullmatch(thumbnail)
    if found is None or int(found["width"]) not in THUMBNAIL_WIDTHS:
        return None
    key = FRAMES_PREFIX + found["frame"]
    return key if is_frame_key(key) else None


def with_fresh_key(record: FrameRecord) -> FrameRecord:
    """The record, to be stored under a fresh key. Raises ValueError as `object_key` does."""
    key = fresh_object_key(record.camera_id, record.frame_id, record.timestamp, record.format)
    return replace(record, storage_path=key)


def object_key(camera_id: str, frame_id: UUID, at: datetime, attempt: str, ext: str) -> str:
    """`frames/{yyyy}/{mm}/{dd}/{camera_id}/{frame_id}-{attempt}.{ext}`, the day of `at` in UTC.

    Raises ValueError for parts that the schemas should have refused, and for an `at` without an offset.
    """
    if not _CAMERA_ID.fullmatch(camera_id) or not camera_id.strip("."):
        raise ValueError("camera_id cannot be part of a key")
    if not _ATTEMPT.fullmatch(attempt) or ext not in EXTENSIONS:
        raise ValueError("attempt or extension cannot be part of a key")
    if at.tzinfo is None:
        raise ValueError("the time of a key needs an offset")
    day = at.astimezone(UTC)
    return f"frames/{day.year:04d}/{day.month:02d}/{day.day:02d}/{camera_id}/{frame_id}-{attempt}.{ext}"
