"""Cameras: the registry, a stream's status, probes, snapshots."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from models.schemas.base import BoundedObject, CameraId, FrameMeta, Input, NullIsAbsent, Output, RtspUrl, Timestamp
from models.schemas.captures import Pick, not_source
from models.values import FORMER_READER, Encoding, Transport
from utils.logger import get_logger

_Name = Annotated[str, Field(max_length=200)]
_Text = Annotated[str, Field(max_length=4000)]
log = get_logger(__name__)


def _former(value: object) -> object:
    if value == FORMER_READER:
        log.warning("reader_renamed", former=FORMER_READER, used="native")
        return "native"
    return value


Reader = Annotated[Literal["opencv", "native"], BeforeValidator(_former)]
RetentionDays = Annotated[float, Field(ge=0.001, le=36_500)]  # 0.001 to 1: for tests (Settings.min_retention_days)
# Paths beside /api/v1/cameras/{camera_id}.
RESERVED_CAMERA_IDS = frozenset({"discover", "probe"})


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise PydanticCustomError("time_zone", "must be an IANA time zone such as Europe/Rome") from None
    return name


def _not_reserved(value: str) -> str:
    if value in RESERVED_CAMERA_IDS:
        raise PydanticCustomError("reserved", "is reserved")
    return value


def _url_or_ref(value: str | None, info: ValidationInfo) -> str | None:
    given = info.data.get("rtsp_ref")
    if value is None and given is None:
        raise PydanticCustomError("missing", "is required, or rtsp_ref")
    if value is not None and given is not None:
        raise PydanticCustomError("rtsp_ref", "cannot stand beside rtsp_ref")
    return value


Site = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
TimeZone = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_time_zone)]


class CameraCreate(NullIsAbsent):
    """POST /api/v1/cameras."""

    camera_id: Annotated[CameraId, AfterValidator(_not_reserved)] = Field(
        description="Any but `discover` and `probe`, which are paths."
    )
    name: _Name | None = Field(None, examples=["Pit lane, entry"])
    description: _Text | None = None
    rtsp_ref: str | None = Field(
        None, min_length=1, max_length=8192, pattern=r"^[!-~]+$",
        description="A stream of POST /api/v1/cameras/discover, with the login that it was found with.",
    )  # fmt: skip
    rtsp_url: Annotated[RtspUrl | None, AfterValidator(_url_or_ref)] = Field(
        None, validate_default=True,
        description="May carry user:password; kept encrypted, shown without login and query. This or `rtsp_ref`.",
    )  # fmt: skip
    transport: Transport = Field(Transport.TCP, strict=False)
    location: _Name | None = None
    camera_angle: _Name | None = None
    calibration: BoundedObject | None = Field(None, description="Free; at most 16 KiB.")
    default_fps: float | None = Field(None, gt=0, le=30, description="Of captures that say none; null: RTSP__DEFAULT_FPS.")
    enabled: bool = Field(True, description="false: captures and snapshots are 409 camera_disabled; running ones go on.")
    keep_open: bool = Field(False, description="Keep the stream open, captures or not.")
    reader: Reader | None = Field(None, description="null: RTSP__READER.")
    encoding: Encoding = Field(
        Encoding.JPEG, strict=False,
        description="How captures and snapshots store its pictures that say none: source is its own keyframes as they came.",
    )  # fmt: skip
    retention_days: RetentionDays | None = Field(
        None,
        description="Days after which its stored frames are deleted, at least 1 (less only with ENVIRONMENT=test); "
        "null: the database's policy (RETENTION__DAYS).",
    )
    exif_timezone: TimeZone | None = Field(
        None, description="IANA time zone of its clock, for EXIF times without an offset; null: UPLOAD__EXIF_TIMEZONE."
    )
    site: Site = Field("default", description="Whose workers capture it (WORKERS__SITE). Only admin changes it.")
    meta: BoundedObject = Field(default_factory=dict, description="Free; at most 16 KiB.")


class CameraPatch(Input):
    """PATCH /api/v1/cameras/{camera_id}, RFC 7396: absent members stay, null resets, objects are merged."""

    camera_id: CameraId | SkipJsonSchema[None] = Field(None, description="May be sent back; cannot change.")
    name: _Name | None = None
    description: _Text | None = None
    rtsp_url: RtspUrl | SkipJsonSchema[None] = Field(None, description="Equal to what is shown: login and query stay.")
    transport: Transport | None = Field(None, strict=False)
    location: _Name | None = None
    camera_angle: _Name | None = None
    calibration: dict[str, Any] | None = None
    default_fps: float | None = Field(None, gt=0, le=30)
    enabled: bool | None = None
    keep_open: bool | None = None
    reader: Reader | None = None
    encoding: Encoding | None = Field(None, strict=False)
    retention_days: RetentionDays | None = None
    exif_timezone: TimeZone | None = None
    site: Site | None = None
    meta: dict[str, Any] | None = None


class StreamError(Output):
    code: str
    message: str
    at: Timestamp


class CameraClock(Output):
    source: Literal["rtp", "rtcp", "receipt"] = Field(
        description="By whose clock frames are stamped: the camera's (in each packet, or by its reports), or ours."
    )
    offset_ms: float | None = Field(
        description="Camera's clock minus ours, less the delay from sensor to here; null when the camera's is not known."
    )


class StreamStatus(Output):
    """A camera's stream, as the process that has it tells."""

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
    refused_logins: int = Field(0, description="Since a picture came. From the third on, the service waits long.")
    retry_at: Timestamp | None = Field(None, description="While it backs off: when it is tried again.")


class CameraConfiguration(Output):
    camera_id: str
    name: str | None
    description: str | None
    rtsp_url: str = Field(description="Without login and query.")
    transport: Transport
    location: str | None
    camera_angle: str | None
    calibration: dict[str, Any] | None
    default_fps: float | None
    enabled: bool
    keep_open: bool
    reader: Reader | None
    encoding: Encoding = Encoding.JPEG
    retention_days: float | None = Field(None, description="Days after which its frames go; null: RETENTION__DAYS.")
    exif_timezone: str | None = Field(None, description="Of EXIF times without an offset; null: UPLOAD__EXIF_TIMEZONE.")
    site: str = Field("default", description="Whose workers capture it.")
    meta: dict[str, Any]
    created_at: Timestamp
    updated_at: Timestamp
    stream: StreamStatus | None = Field(description="Read-only; null when no process has a stream of the camera.")


class CameraPage(Output):
    items: list[CameraConfiguration]
    next_cursor: str | None


class ProbeRequest(Input):
    """POST /api/v1/cameras/probe."""

    rtsp_url: RtspUrl
    transport: Transport | None = Field(None, strict=False, description="null: tcp.")
    site: Site = Field("default", description="Whose workers try it.")


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


class SnapshotRequest(NullIsAbsent):
    """POST /api/v1/cameras/{camera_id}/snapshot."""

    meta: FrameMeta = Field(default_factory=lambda: FrameMeta())
    jpeg_quality: int = Field(90, ge=50, le=100, description="Not with encoding source.")
    encoding: Encoding | None = Field(
        None, strict=False,
        description="source: the camera's own keyframe as it came, the last one while it is younger than `max_staleness`, "
        "else the next. null: the camera's, else jpeg.",
    )  # fmt: skip
    max_staleness: float = Field(
        0, ge=0, le=3600, description="Seconds. 0: the newest picture; else the last keyframe will do while it is younger."
    )
    pick: Pick | None = None

    @model_validator(mode="after")
    def _fits_encoding(self) -> SnapshotRequest:
        if self.encoding is Encoding.SOURCE and "jpeg_quality" in self.model_fields_set:
            raise not_source("jpeg_quality")
        return self
