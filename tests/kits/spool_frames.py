"""Frames for the spool's tests."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from uuid import UUID

from models.values import FrameRecord, SourceType, TimestampSource
from utils.ids import frame_id

GRID = datetime(2026, 5, 4, 13, 30, 0, 123456, tzinfo=UTC)
FPS = 2.0


def picture(size: int = 100) -> bytes:
    return b"\xff\xd8" + secrets.token_bytes(size - 2)


def frame_of(
    request_id: UUID, slot: int, data: bytes, *, camera_id: str = "cam", grid_start: datetime = GRID, off: float = 0.01
) -> FrameRecord:
    """What a capture has of a slot; its picture was taken `off` seconds beside the slot's time."""
    at = grid_start + timedelta(seconds=slot / FPS)
    identity = frame_id(request_id, slot, at)
    return FrameRecord(
        frame_id=identity, request_id=request_id, camera_id=camera_id, source_type=SourceType.RTSP, sequence=slot,
        storage_path=f"frames/2026/05/04/{camera_id}/{identity}-{secrets.token_hex(8)}.jpg",
        timestamp=at + timedelta(seconds=off), timestamp_source=TimestampSource.RTCP, timestamp_uncertainty_ms=2.5,
        camera_timestamp=at, width=4, height=3, size_bytes=len(data), format="jpg", content_type="image/jpeg",
        sha256=hashlib.sha256(data).hexdigest(), meta={"car": "44", "ü": [1, None]},
    )  # fmt: skip
