"""The wire: what clients send and get (CONTRACT.md), as Pydantic models.

Input is strict: no coercion, unknown fields refused, times RFC 3339 with an offset. Output times are UTC, `Z`,
six digits.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator
from pydantic_core import PydanticCustomError

from models.values import CaptureMode, IngestionStatus, Sampling, SourceType, TimestampSource, Transport

MAX_META_BYTES = 16 * 1024
CAMERA_ID_PATTERN = r"^[A-Za-z0-9._-]{1,100}$"
_RFC3339 = re.compile(r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})$")


def parse_time(value: Any) -> Any:
    """RFC 3339 text to an aware UTC datetime (microseconds); raises a validation error for anything else."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _RFC3339.match(value):
        raise PydanticCustomError("timestamp", "must be an RFC 3339 time with an offset, e.g. 2026-05-04T13:30:00Z")
    text = value.upper().replace(" ", "T")
    head, dot, tail = text.partition(".")
    if dot:  # datetime takes six digits at most
        digits = re.match(r"\d+", tail)
        fraction = digits.group() if digits else ""
        text = f"{head}.{fraction[:6].ljust(6, '0')}{tail[len(fraction) :]}"
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError("timestamp", "is not a time that exists") from None


def format_time(value: datetime) -> str:
    """UTC, `Z`, six digits."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


Timestamp = Annotated[
    datetime,
    BeforeValidator(parse_time, json_schema_input_type=str),
    PlainSerializer(format_time, return_type=str, when_used="json"),
    Field(json_schema_extra={"format": "date-time", "examples": ["2026-05-04T13:30:00.000000Z"]}),
]


def _not_only_dots(value: str) -> str:
    if not value.strip("."):
        raise PydanticCustomError("camera_id", "must not be only dots")
    return value


CameraId = Annotated[
    str,
    Field(pattern=CAMERA_ID_PATTERN, min_length=1, max_length=100, examples=["pit-lane-1"]),
    AfterValidator(_not_only_dots),
]
RtspUrl = Annotated[
    str,
    Field(min_length=8, max_length=2048, pattern=r"^[Rr][Tt][Ss][Pp][Ss]?://", examples=["rtsp://192.168.1.20:554/stream1"]),
]


class Input(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class Output(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FrameMeta(Input):
    """Free to fill; stored with the request and every frame."""

    session: str | None = Field(None, examples=["FP1"])
    timestamp_ref: Timestamp | None = None
    location: str | None = None
    camera_angle: str | None = None
    exposure: float | None = Field(None, ge=0, description="Seconds.")
    sensor_info: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _bounded(self) -> FrameMeta:
        if len(json.dumps(self.to_json(), ensure_ascii=False).encode()) > MAX_META_BYTES:
            raise PydanticCustomError("meta_too_large", "meta is larger than 16 KiB")
        return self

    def to_json(self) -> dict[str, Any]:
        """Only what was sent, as JSON."""
        return self.model_dump(mode="json", exclude_none=True)


class MotionSettings(Input):
    """What counts as an event (event_driven)."""

    enabled: bool = True
    threshold: float | None = Field(None, gt=0, le=255)
    min_area: float | None = Field(None, gt=0, le=1)
    cooldown: float | None = Field(None, ge=0, le=3600)


_UNUSED_BY_MODE: dict[CaptureMode, tuple[str, ...]] = {
    CaptureMode.SINGLE_FRAME: ("pre_roll", "post_roll", "motion"),
    CaptureMode.CONTINUOUS: ("frame_timestamp", "pre_roll", "post_roll", "motion"),
    CaptureMode.EVENT_DRIVEN: ("frame_timestamp",),
}


class RTSPIngestionRequest(Input):
    """POST /api/v1/ingest/rtsp."""

    source_type: Literal["rtsp"] = "rtsp"
    rtsp_url: RtspUrl | None = Field(None, description="May carry user:password; never shown again.")
    camera_id: CameraId
    capture_mode: CaptureMode = Field(CaptureMode.SINGLE_FRAME, strict=False)
    frame_timestamp: Timestamp | None = Field(None, description="single_frame: the frame nearest to this moment.")
    capture_duration: float | None = Field(None, gt=0, le=3600, description="Seconds; null: until cancelled.")
    fps: float | None = Field(None, gt=0, le=30, description="Frames a second on the request's grid.")
    sampling: Sampling = Field(Sampling.AUTO, strict=False)
    max_frames: int | None = Field(None, ge=1, le=100_000)
    jpeg_quality: int = Field(90, ge=50, le=100)
    transport: Transport | None = Field(None, strict=False)
    pre_roll: float | None = Field(None, ge=0, le=30, description="event_driven, seconds; 2 when absent.")
    post_roll: float | None = Field(None, ge=0, le=30, description="event_driven, seconds; 5 when absent.")
    motion: MotionSettings | None = None
    meta: FrameMeta = Field(default_factory=lambda: FrameMeta())

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"camera_id": "pit-lane-1", "rtsp_url": "rtsp://127.0.0.1:8554/demo", "capture_mode": "single_frame"},
                {
                    "camera_id": "pit-lane-1", "rtsp_url": "rtsp://127.0.0.1:8554/demo", "capture_mode": "continuous",
                    "capture_duration": 5, "fps": 2, "meta": {"session": "FP1"},
                },
            ]
        }
    )  # fmt: skip

    @model_validator(mode="after")
    def _fits_mode(self) -> RTSPIngestionRequest:
        for name in _UNUSED_BY_MODE[self.capture_mode]:
            if getattr(self, name) is not None:
                raise PydanticCustomError(
                    "not_applicable", "{field} does not apply to capture_mode {mode}",
                    {"field": name, "mode": self.capture_mode.value},
                )  # fmt: skip
        return self


class UploadIngestionRequest(Input):
    """The form fields of POST /api/v1/ingest/upload beside `files`."""

    source_type: Literal["upload"] = "upload"
    camera_id: CameraId
    meta: FrameMeta = Field(default_factory=lambda: FrameMeta())


class FrameInfo(Output):
    frame_id: UUID
    request_id: UUID
    camera_id: str
    source_type: SourceType
    sequence: int = Field(description="The slot's number on the request's grid; of an upload: the file's index.")
    filename: str | None
    storage_path: str = Field(description="The object's key, without the bucket.")
    storage_url: str = Field(description="Presigned URL, made for this answer.")
    url_expires_at: Timestamp
    timestamp: Timestamp = Field(description="Capture time.")
    timestamp_source: TimestampSource
    timestamp_uncertainty_ms: float | None
    width: int
    height: int
    size_bytes: int
    format: Literal["jpg", "png", "bmp", "tiff"]
    content_type: str
    sha256: str
    duplicate_of: UUID | None
    exif: dict[str, Any] | None
    meta: dict[str, Any]
    stored_at: Timestamp


class NearestFrame(FrameInfo):
    distance_ms: float


class Gap(Output):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)

    from_: Timestamp = Field(alias="from")
    to: Timestamp | None
    reason: str


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
    url: str = Field(description="Its password masked.")
    codec: str | None
    width: int | None
    height: int | None
    fps: float | None


class RequestSummary(Output):
    """A request in a list: everything but its frames and gaps."""

    request_id: UUID
    status: IngestionStatus
    camera_id: str
    source_type: SourceType
    capture_mode: CaptureMode | None
    message: str
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


class FramePage(Output):
    items: list[FrameInfo]
    next_cursor: str | None


class HealthCheck(Output):
    status: Literal["healthy", "degraded", "unhealthy"]
    latency_ms: float | None
    detail: str | None


class HealthCheckResponse(Output):
    status: Literal["healthy", "degraded", "unhealthy"]
    timestamp: Timestamp
    version: str
    dependencies: dict[str, Literal["healthy", "degraded", "unhealthy"]]
    checks: dict[str, HealthCheck]


class LiveResponse(Output):
    status: Literal["alive"]


class ProblemField(Output):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)

    in_: Literal["body", "query", "path", "header", "form"] = Field(alias="in")
    pointer: str
    name: str
    code: str
    message: str


class Problem(Output):
    """application/problem+json (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    instance: str
    trace_id: str
    retryable: bool
    errors: list[ProblemField] = Field(default_factory=list)
