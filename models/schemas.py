"""The wire: what clients send and get (docs/api.md), as Pydantic models.

Input is strict: no coercion, unknown fields refused, times RFC 3339 with an offset. Output times are UTC, `Z`,
six digits.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from models.values import (
    CaptureMode,
    EventKind,
    IngestionStatus,
    LogEventType,
    Sampling,
    SourceType,
    TimestampSource,
    Transport,
)

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

    enabled: bool | None = Field(None, description="false: external triggers only, nothing is decoded between them.")
    threshold: float | None = Field(
        None, gt=0, le=255, description="Grey levels (of 256) by which a point differs from the background; 20 when absent."
    )
    min_area: float | None = Field(
        None, gt=0, le=1, description="Share of the picture that one connected moving patch must cover; 0.005 when absent."
    )
    cooldown: float | None = Field(
        None, ge=0, le=3600, description="Seconds after an event until motion may begin another; 2 when absent."
    )


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


class UploadSessionCreate(Input):
    """POST /api/v1/ingest/upload/sessions."""

    camera_id: CameraId
    filename: str = Field(
        min_length=1, max_length=1024, description="Shown with the frame; its extension names the format.",
        examples=["car-44.tif"],
    )  # fmt: skip
    size_bytes: int = Field(ge=1, description="Exactly; at most UPLOAD__DIRECT_MAX_FILE_SIZE.")
    content_type: str | None = Field(
        None, pattern=r"^[ -~]{1,255}$", examples=["image/tiff"],
        description="The picture's; checked against its bytes. Not to be sent with the PUT.",
    )  # fmt: skip
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="Hex, lower case: what arrives must have it.")
    meta: FrameMeta = Field(default_factory=lambda: FrameMeta())

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return without_nulls(value, cls)


class CompletedPart(Input):
    number: int = Field(ge=1, le=10_000)
    etag: str = Field(pattern=r"^[!-~]{1,200}$", description="As the store answered it, with or without quotes.")


class UploadComplete(Input):
    """POST /api/v1/ingest/upload/sessions/{session_id}/complete."""

    parts: list[CompletedPart] | None = Field(
        None,
        max_length=1000,
        description="Optional; what the client has sent. A part that is not as given here is asked for again.",
    )


class UploadPart(Output):
    number: int
    offset: int = Field(description="Of its first byte in the file.")
    size: int = Field(description="Bytes to send: exactly so many.")
    arrived: bool
    etag: str | None = Field(description="As the store has it, once it has arrived.")
    url: str | None = Field(description="Where to PUT it, made for this answer; null when it has arrived.")


class UploadError(Output):
    code: str
    message: str
    retryable: bool


class UploadSessionResponse(Output):
    """A direct upload. URLs are made anew for every answer."""

    session_id: UUID
    status: Literal["open", "completing", "completed", "failed", "aborted", "expired"]
    camera_id: str
    filename: str
    content_type: str | None
    size_bytes: int
    sha256: str | None
    meta: dict[str, Any]
    method: Literal["single", "multipart"]
    upload_url: str | None = Field(description="single: where to PUT the file; null when it has arrived, or in the end.")
    headers: dict[str, str] = Field(description="To send with the PUT; HTTP clients set Content-Length by themselves.")
    part_size: int | None
    parts: list[UploadPart] | None = Field(description="multipart: each part, PUT by itself, in any order.")
    received_bytes: int = Field(description="In whole parts: a PUT that was cut off counts nothing.")
    urls_expire_at: Timestamp | None
    request_id: UUID | None = Field(description="Of a completed one: the request with the frame.")
    error: UploadError | None = Field(description="Of a failed one: why the file was refused.")
    created_at: Timestamp
    expires_at: Timestamp = Field(description="Then what has arrived is removed.")


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
    camera_timestamp: Timestamp | None = Field(
        None, description="Capture time by the camera's own clock, where it is known, whether it is trusted or not."
    )
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
    held_at: Timestamp | None = Field(None, description="On hold since: the frame is not deleted until it is released.")
    hold_reason: str | None = None


class NearestFrame(FrameInfo):
    distance_ms: float


class HoldRequest(Input):
    """POST /api/v1/frames/{frame_id}/hold."""

    reason: str | None = Field(None, min_length=1, max_length=200, examples=["protest of car 44"])


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
    group_id: UUID | None = Field(None, description="Of a burst's requests: the burst.")
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


class TriggerRequest(Input):
    """POST /api/v1/ingest/requests/{request_id}/trigger."""

    label: str | None = Field(None, min_length=1, max_length=200, examples=["car 44 enters"])
    at: Timestamp | None = Field(
        None,
        description="When it happened; now when absent. At most RTSP__RING_SECONDS ago, not before the capture's first "
        "picture, at most 10 s ahead.",
    )


class TriggerAccepted(Output):
    event_id: UUID


class CaptureEventInfo(Output):
    """An event of an event_driven capture. Its frames are those with `sequence` from first to last of this request."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)

    event_id: UUID
    request_id: UUID
    kind: EventKind
    label: str | None
    score: float | None = Field(description="motion: the largest share of the picture that moved.")
    from_: Timestamp = Field(alias="from", description="Capture time at which it began; pre_roll seconds before are stored.")
    to: Timestamp | None = Field(description="When it was over, null while it lasts; post_roll seconds after are stored.")
    frames: int = Field(description="Stored frames of its slots; events that overlap share them.")
    first_sequence: int | None = Field(description="Its first slot, pre-roll included; null when the grid has none for it.")
    last_sequence: int | None
    created_at: Timestamp


class EventPage(Output):
    items: list[CaptureEventInfo]
    next_cursor: str | None


class CloudEvent(Output):
    """CloudEvents 1.0, JSON format, structured."""

    specversion: Literal["1.0"]
    id: str = Field(description="Also the cursor after this event.")
    source: str
    type: LogEventType
    subject: UUID = Field(description="The frame's or the request's id.")
    time: Timestamp
    datacontenttype: Literal["application/json"]
    cameraid: str
    data: dict[str, Any] = Field(
        description="frame.stored: FrameInfo without storage_url and url_expires_at. frame.deleted: which frame it was. "
        "request.*: the request's state, error and ledger. camera.gap_*: request_id, gap_id, from, to, reason."
    )


class CloudEventPage(Output):
    items: list[CloudEvent]
    next_cursor: str = Field(description="Where to go on, always given; past what the filters left out, too.")


def _bounded_object(limit: int) -> Any:
    def check(value: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(value, ensure_ascii=False).encode()) > limit:
            raise PydanticCustomError("object_too_large", "is larger than {limit} bytes", {"limit": limit})
        return value

    return AfterValidator(check)


_Name = Annotated[str, Field(max_length=200)]
_Text = Annotated[str, Field(max_length=4000)]
_Object = Annotated[dict[str, Any], _bounded_object(MAX_META_BYTES)]
Reader = Literal["opencv", "pyav"]
RetentionDays = Annotated[float, Field(gt=0, le=36_500)]


class CameraCreate(Input):
    """POST /api/v1/cameras."""

    camera_id: CameraId
    name: _Name | None = Field(None, examples=["Pit lane, entry"])
    description: _Text | None = None
    rtsp_url: RtspUrl = Field(description="May carry user:password; kept encrypted, shown masked.")
    transport: Transport = Field(Transport.TCP, strict=False)
    location: _Name | None = None
    camera_angle: _Name | None = None
    calibration: _Object | None = Field(None, description="Free; at most 16 KiB.")
    default_fps: float | None = Field(None, gt=0, le=30, description="Of captures that say none; null: RTSP__DEFAULT_FPS.")
    enabled: bool = Field(True, description="false: captures and snapshots are 409 camera_disabled; running ones go on.")
    keep_open: bool = Field(False, description="Keep the stream open, captures or not.")
    reader: Reader | None = Field(None, description="null: RTSP__READER.")
    retention_days: RetentionDays | None = Field(
        None, description="Days after which its stored frames are deleted; null: RETENTION__DAYS."
    )
    meta: _Object = Field(default_factory=dict, description="Free; at most 16 KiB.")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return without_nulls(value, cls)


def without_nulls(value: Any, model: type[BaseModel]) -> Any:
    """The object without the model's fields that are null (docs/api.md: null means absent); anything else unchanged."""
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if item is not None or key not in model.model_fields}


class CameraPatch(Input):
    """PATCH /api/v1/cameras/{camera_id}, RFC 7396: absent members stay, null resets, objects are merged."""

    camera_id: CameraId | None = Field(None, description="May be sent back; cannot change.")
    name: _Name | None = None
    description: _Text | None = None
    rtsp_url: RtspUrl | None = Field(None, description="Equal to the masked form: the secret stays. Cannot be null.")
    transport: Transport | None = Field(None, strict=False)
    location: _Name | None = None
    camera_angle: _Name | None = None
    calibration: dict[str, Any] | None = None
    default_fps: float | None = Field(None, gt=0, le=30)
    enabled: bool | None = None
    keep_open: bool | None = None
    reader: Reader | None = None
    retention_days: RetentionDays | None = None
    meta: dict[str, Any] | None = None


class StreamError(Output):
    code: str
    message: str
    at: Timestamp


class CameraClock(Output):
    source: Literal["rtcp", "receipt"] = Field(description="By whose clock frames are stamped: the camera's, or ours.")
    offset_ms: float | None = Field(
        description="Camera's clock minus ours, less the delay from sensor to here; null when the camera's is not known."
    )


class StreamStatus(Output):
    """A camera's stream as this process has it."""

    state: Literal["connecting", "live", "stalled", "backing_off", "closed"]
    since: Timestamp
    codec: str | None
    width: int | None
    height: int | None
    fps: float | None
    ring_seconds: float = Field(description="How far back past timestamps and pre-roll reach.")
    ring_bytes: int
    jobs: int = Field(description="Captures that use it.")
    last_packet_at: Timestamp | None
    reconnects: int
    clock: CameraClock | None = Field(None, description="null before the first picture.")
    last_error: StreamError | None


class CameraConfiguration(Output):
    camera_id: str
    name: str | None
    description: str | None
    rtsp_url: str = Field(description="Its password masked.")
    transport: Transport
    location: str | None
    camera_angle: str | None
    calibration: dict[str, Any] | None
    default_fps: float | None
    enabled: bool
    keep_open: bool
    reader: Reader | None
    retention_days: float | None = Field(None, description="Days after which its frames go; null: RETENTION__DAYS.")
    meta: dict[str, Any]
    created_at: Timestamp
    updated_at: Timestamp
    stream: StreamStatus | None = Field(description="Read-only; null when this process has no stream of the camera.")


class CameraPage(Output):
    items: list[CameraConfiguration]
    next_cursor: str | None


class ProbeRequest(Input):
    """POST /api/v1/cameras/probe."""

    rtsp_url: RtspUrl
    transport: Transport | None = Field(None, strict=False, description="null: tcp.")


class ProbeResponse(Output):
    reachable: bool
    code: str | None = Field(description="What went wrong: a capture's error code.")
    detail: str | None
    codec: str | None
    width: int | None
    height: int | None
    fps: float | None = Field(description="True, counted over the packets' own times.")
    keyframe_interval_s: float | None
    bitrate_bps: int | None
    clock: CameraClock | None
    connect_ms: float | None = Field(description="Until the camera had answered DESCRIBE.")
    first_frame_ms: float | None = Field(description="Until its first keyframe was here.")
    mb_per_day_at_1fps: float | None = Field(description="From one picture as it would be stored, quality 90.")
    warnings: list[str]


class SnapshotRequest(Input):
    """POST /api/v1/cameras/{camera_id}/snapshot."""

    meta: FrameMeta = Field(default_factory=lambda: FrameMeta())
    jpeg_quality: int = Field(90, ge=50, le=100)
    max_staleness: float = Field(
        0, ge=0, le=3600, description="Seconds. 0: the newest picture; else the last keyframe will do while it is younger."
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return without_nulls(value, cls)


class BurstRequest(Input):
    """POST /api/v1/ingest/burst."""

    camera_ids: list[CameraId] = Field(
        min_length=2, max_length=32, description="Registered cameras, each once.", examples=[["pit-lane-1", "pit-lane-2"]]
    )
    at: Timestamp | None = Field(
        None,
        description="The moment: at most RTSP__RING_SECONDS ago, or 10 s ahead. null: now, once all streams are open.",
    )
    tolerance_ms: float = Field(100, ge=1, le=5000, description="How far from the moment a frame may lie.")
    meta: FrameMeta = Field(default_factory=lambda: FrameMeta())

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return without_nulls(value, cls)

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
