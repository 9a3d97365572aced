"""Stored frames."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from models.schemas.base import Input, Output, Timestamp
from models.values import Integrity, QualityReason, QualityVerdict, SourceType, TimestampSource


class FrameQuality(Output):
    """Whether the picture is fit to be compared, judged against its camera's own recent frames (docs/quality.md)."""

    verdict: QualityVerdict
    reasons: list[QualityReason] = Field(description="Worst first; empty when it is good.")
    sharpness: float = Field(description="Variance of the Laplacian; comparable within one camera and size.")
    brightness: float = Field(description="Mean of the grey levels, 0 to 255.")
    contrast: float = Field(description="Standard deviation of the grey levels.")
    dark_share: float = Field(description="Share of the picture that is black, or nearly so.")
    bright_share: float = Field(description="Share of the picture that is white, or nearly so.")
    frozen_s: float | None = Field(description="For how long the camera has shown this same picture; null of an upload.")


class FrameInfo(Output):
    frame_id: UUID
    request_id: UUID
    camera_id: str
    source_type: SourceType
    sequence: int = Field(description="The slot's number on the request's grid; of an upload: the file's index.")
    filename: str | None
    storage_path: str = Field(description="The object's key, without the bucket.")
    storage_url: str | None = Field(description="Presigned URL, made for this answer; null without frames:read.")
    url_expires_at: Timestamp | None
    timestamp: Timestamp = Field(description="Capture time.")
    timestamp_source: TimestampSource
    timestamp_uncertainty_ms: float | None
    camera_timestamp: Timestamp | None = Field(
        None, description="Capture time by the camera's own clock, where it is known, whether it is trusted or not."
    )
    width: int
    height: int
    size_bytes: int
    format: Literal["jpg", "png", "bmp", "tiff", "heic", "webp", "avif", "h264", "h265"]
    content_type: str
    sha256: str
    integrity: Integrity = Field(
        Integrity.VERIFIED,
        description="verified: it was decoded whole; unknown: parts may be missing; undecoded: stored as it came, and "
        "nobody has decoded it yet.",
    )
    duplicate_of: UUID | None
    exif: dict[str, Any] | None
    meta: dict[str, Any]
    quality: FrameQuality | None = Field(None, description="Null: not judged.")
    stored_at: Timestamp
    held_at: Timestamp | None = Field(None, description="On hold since: the frame is not deleted until it is released.")
    hold_reason: str | None = None


class NearestFrame(FrameInfo):
    distance_ms: float


class VerifiedFrame(Output):
    """What was read of a frame's stored bytes."""

    ok: bool = Field(description="Whether they are those that were stored.")
    sha256: str | None = Field(description="Of what was read; null: the object is missing.")
    size_bytes: int | None = Field(description="Of what was read; null: the object is missing.")


class FramePage(Output):
    items: list[FrameInfo]
    next_cursor: str | None


class HistogramBucket(Output):
    at: Timestamp = Field(description="Where it begins: `from` plus a whole number of `bucket_s`.")
    frames: int = Field(description="Stored frames with a capture time in it.")
    bad: int = Field(description="Those of them whose quality is bad.")


class Histogram(Output):
    buckets: list[HistogramBucket] = Field(description="All of `from` to `to`, empty ones too, by time; at most 2000.")


class HoldRequest(Input):
    """POST /api/v1/frames/{frame_id}/hold."""

    reason: str | None = Field(None, min_length=1, max_length=200, examples=["protest of car 44"])
