"""Bursts: one moment of several cameras."""

from __future__ import annotations

from uuid import UUID

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from models.schemas.base import CameraId, FrameMeta, NullIsAbsent, Output, Timestamp
from models.schemas.captures import Pick
from models.schemas.frames import FrameInfo
from models.values import IngestionStatus


class BurstRequest(NullIsAbsent):
    """POST /api/v1/ingest/burst."""

    camera_ids: list[CameraId] = Field(
        min_length=2,
        max_length=32,
        description="Registered cameras, each once.",
        json_schema_extra={"uniqueItems": True},
        examples=[["pit-lane-1", "pit-lane-2"]],
    )
    at: Timestamp | None = Field(
        None,
        description="The moment: at most RTSP__RING_SECONDS ago, or 10 s ahead. null: now, once all streams are open.",
    )
    tolerance_ms: float = Field(100, ge=1, le=5000, description="How far from the moment a frame may lie.")
    pick: Pick | None = Field(None, description="Per camera: the sharpest of several pictures within the tolerance.")
    meta: FrameMeta = Field(default_factory=lambda: FrameMeta())

    @field_validator("camera_ids")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise PydanticCustomError("repeated", "names a camera more than once")
        return value


class BurstError(Output):
    code: str
    message: str
    retryable: bool


class BurstResult(Output):
    """What became of one camera."""

    camera_id: str
    request_id: UUID
    status: IngestionStatus
    offset_ms: float | None = Field(description="The frame's timestamp minus `at`.")
    within_tolerance: bool
    frame: FrameInfo | None
    error: BurstError | None


class BurstResponse(Output):
    """One moment of several cameras."""

    group_id: UUID
    at: Timestamp
    tolerance_ms: float
    skew_ms: float | None = Field(description="Latest minus earliest timestamp of the frames; null for fewer than two.")
    complete: bool = Field(description="Whether every camera has a frame within the tolerance.")
    stored: int
    results: list[BurstResult] = Field(description="One a camera, in the order asked for.")
