"""Stored frames as the wire shows them. `frame_json` is the one form; see `requests.py` beside it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from models.entities import Frame
from models.schemas import FrameInfo
from models.schemas.base import format_time
from repositories.reader import Row
from repositories.uploads import RowPart
from services.storage_service.presign import Presigned, Served
from utils.disposition import inline

_expiry = lru_cache(maxsize=16)(format_time)  # one for all URLs of a second


def served(row: Frame | Row | RowPart) -> Served:
    """The frame's object as clients get it, from the store and from here."""
    return Served(row.storage_path, row.content_type, inline(name_of(row), row.format))


def name_of(row: Frame | Row | RowPart) -> str:
    """What the frame's file is called: as its client named it, else by camera and capture time."""
    if row.filename:
        return str(row.filename)
    at = format_time(row.capture_timestamp).replace("-", "").replace(":", "")
    return f"{row.camera_id}-{at}"


def frame_json(row: Frame | Row | RowPart, url: Presigned | None) -> dict[str, Any]:
    """The frame as the wire shows it, a FrameInfo, with a URL of this moment; None where none is given or kept."""
    camera_time, held, first = row.camera_timestamp, row.held_at, row.duplicate_of
    return {
        "frame_id": str(row.id),
        "request_id": str(row.request_id),
        "camera_id": row.camera_id,
        "source_type": row.source_type,
        "sequence": row.sequence,
        "filename": row.filename,
        "storage_path": row.storage_path,
        "storage_url": url.url if url else None,
        "url_expires_at": _expiry(url.expires_at) if url else None,
        "timestamp": format_time(row.capture_timestamp),
        "timestamp_source": row.timestamp_source,
        "timestamp_uncertainty_ms": row.timestamp_uncertainty_ms,
        "camera_timestamp": None if camera_time is None else format_time(camera_time),
        "width": row.width,
        "height": row.height,
        "size_bytes": row.size_bytes,
        "format": row.format,
        "content_type": row.content_type,
        "sha256": row.sha256,
        "integrity": row.integrity,
        "duplicate_of": None if first is None else str(first),
        "exif": row.exif,
        "meta": row.meta,
        "quality": row.quality,
        "stored_at": format_time(row.stored_at),
        "held_at": None if held is None else format_time(held),
        "hold_reason": row.hold_reason,
    }


def to_frame_info(row: Frame | Row, url: Presigned | None) -> FrameInfo:
    """The same as a model."""
    return FrameInfo.model_validate(frame_json(row, url))
