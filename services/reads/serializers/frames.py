"""Stored frames as the wire shows them."""

from __future__ import annotations

from models.entities import Frame
from models.schemas import FrameInfo
from models.values import SourceType
from services.storage_service.presign import Presigned, Served
from utils.disposition import inline


def served(row: Frame) -> Served:
    """The frame's object as clients get it, from the store and from here."""
    name = row.filename or f"{row.camera_id}-{row.capture_timestamp:%Y%m%dT%H%M%S.%fZ}"
    return Served(row.storage_path, row.content_type, inline(name, row.format))


def to_frame_info(row: Frame, url: Presigned | None) -> FrameInfo:
    """The frame as the wire shows it, with a URL of this moment; None where none is given or kept."""
    return FrameInfo(
        frame_id=row.id, request_id=row.request_id, camera_id=row.camera_id, source_type=SourceType(row.source_type),
        sequence=row.sequence, filename=row.filename, storage_path=row.storage_path,
        storage_url=url.url if url else None, url_expires_at=url.expires_at if url else None,
        timestamp=row.capture_timestamp, timestamp_source=row.timestamp_source,
        timestamp_uncertainty_ms=row.timestamp_uncertainty_ms, camera_timestamp=row.camera_timestamp,
        width=row.width, height=row.height,
        size_bytes=row.size_bytes, format=row.format, content_type=row.content_type, sha256=row.sha256,
        duplicate_of=row.duplicate_of, exif=row.exif, meta=row.meta, stored_at=row.stored_at,
        held_at=row.held_at, hold_reason=row.hold_reason,
    )  # fmt: skip
