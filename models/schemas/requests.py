"""Requests: status, progress, error, frames."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import ConfigDict, Field

from models.schemas.base import Output, Timestamp
from models.schemas.frames import FrameInfo
from models.values import CaptureMode, IngestionStatus, SourceType


class Gap(Output):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)

    from_: Timestamp = Field(alias="from")
    to: Timestamp | None
    reason: str


class CameraGap(Gap):
    """A time in which a capture of the camera had no pictures."""

    to: Timestamp | None = Field(description="null while it lasts.")
    request_id: UUID


class CameraGapPage(Output):
    items: list[CameraGap]
    next_cursor: str | None


class LossBucket(Output):
    at: Timestamp = Field(description="Where it begins: `from` plus a whole number of `bucket_s`.")
    dropped: dict[str, int] = Field(description="Slots due in it that were dropped, by reason.")


class Losses(Output):
    buckets: list[LossBucket] = Field(description="All of `from` to `to`, those without loss too, by time; at most 2000.")


class Progress(Output):
    expected: int = Field(description="Slots that have come due = stored + in_flight + the sum of dropped.")
    stored: int
    in_flight: int
    dropped: dict[str, int]
    duplicates: int
    gaps: list[Gap]
    reconnects: int
    last_frame_at: Timestamp | None


class RequestError(Output):
    code: str
    message: str
    retryable: bool
    at: Timestamp


class RejectedFile(Output):
    index: int
    filename: str | None
    code: str
    detail: str
    retryable: bool


class StreamSource(Output):
    url: str | None = Field(description="Without login and query; null without cameras:read.")
    codec: str | None
    width: int | None
    height: int | None
    fps: float | None


class RequestSummary(Output):
    """A request in a list: everything but its frames and gaps."""

    request_id: UUID
    group_id: UUID | None = Field(None, description="Of a burst's requests: the burst.")
    status: IngestionStatus
    camera_id: str
    source_type: SourceType
    capture_mode: CaptureMode | None
    message: str
    worker: UUID | None = Field(None, description="The process that runs it now (GET /api/v1/workers).")
    frames_total: int
    progress: Progress
    error: RequestError | None
    rejected: list[RejectedFile]
    meta: dict[str, Any]
    source: StreamSource | None
    grid_start: Timestamp | None
    created_at: Timestamp
    started_at: Timestamp | None
    completed_at: Timestamp | None
    updated_at: Timestamp


class IngestionResponse(RequestSummary):
    frames: list[FrameInfo] = Field(description="An upload's all, by sequence; a capture's newest 100, newest first.")


class RequestPage(Output):
    items: list[RequestSummary]
    next_cursor: str | None
