"""Object keys: never reused, never made of client input that was not checked."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from uuid import UUID

from models.values import CAMERA_ID_PATTERN

_CAMERA_ID = re.compile(CAMERA_ID_PATTERN)
_ATTEMPT = re.compile(r"[0-9a-f]{16}")
EXTENSIONS = frozenset({"jpg", "png", "bmp", "tiff"})


def new_attempt() -> str:
    """16 random hex digits: one for each PUT, so that a stalled earlier PUT can never replace this one's bytes."""
    return secrets.token_hex(8)


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
