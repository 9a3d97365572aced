"""Plain values that all layers share: enumerations, capture parameters, frames, filters.

Longer than 250 lines: some forty small classes without code of their own, which every layer imports from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from models.access import CameraGrant

CAMERA_ID_PATTERN = r"^[A-Za-z0-9._-]{1,100}$"


class SourceType(StrEnum):
    RTSP = "rtsp"
    UPLOAD = "upload"


class CaptureMode(StrEnum):
    SINGLE_FRAME = "single_frame"
    CONTINUOUS = "continuous"
    EVENT_DRIVEN = "event_driven"


class IngestionStatus(StrEnum):
    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_STATUSES = frozenset({IngestionStatus.COMPLETED, IngestionStatus.FAILED, IngestionStatus.CANCELLED})


class Sampling(StrEnum):
    AUTO = "auto"
    EXACT = "exact"
    KEYFRAME = "keyframe"


class Encoding(StrEnum):
    """How a capture stores its pictures: decoded and encoded as JPEG, or the camera's own keyframes as they came."""

    JPEG = "jpeg"
    SOURCE = "source"


class Integrity(StrEnum):
    """What is known of a stored picture being whole. `unknown`: parts may be missing, or were found to be."""

    VERIFIED = "verified"  # it was decoded without an error, and nothing could be lost without a sign
    UNKNOWN = "unknown"
    UNDECODED = "undecoded"  # nobody has decoded it yet


class Transport(StrEnum):
    TCP = "tcp"
    UDP = "udp"


class TimestampSource(StrEnum):
    RTP = "rtp"
    RTCP = "rtcp"
    RECEIPT = "receipt"
    EXIF = "exif"
    CLIENT = "client"
    UPLOAD = "upload"


DEFAULT_SITE = "default"  # of cameras that name none, and of captures whose camera is not registered
FORMER_READER = "pyav"  # the reader that `native` took the place of: the name is read as `native`


class DropReason(StrEnum):
    """Why a slot that came due has no frame."""

    CAMERA_DOWN = "camera_down"
    NO_PICTURE = "no_picture"
    DECODE_FAILED = "decode_failed"
    QUEUE_FULL = "queue_full"
    SPOOL_FULL = "spool_full"
    SPOOLED = "spooled"
    SURPLUS = "surplus"
    LEASE_LOST = "lease_lost"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class MotionParams:
    """What counts as motion (services.rtsp_capture.captures.motion)."""

    enabled: bool = True
    threshold: float = 20.0  # grey levels (of 256) that a point must differ from the background by
    min_area: float = 0.005  # share of the picture that one connected patch must cover
    cooldown: float = 2.0  # seconds after an event until motion may begin another

    def to_json(self) -> dict[str, Any]:
        return {
            "enabled": self.enabled, "threshold": self.threshold, "min_area": self.min_area, "cooldown": self.cooldown,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class BurstParams:
    """What a single_frame capture shares with the others of its burst. Kept in its params."""

    index: int  # of the camera in the body
    tolerance_ms: float

    def to_json(self) -> dict[str, Any]:
        return {"index": self.index, "tolerance_ms": self.tolerance_ms}


@dataclass(frozen=True, slots=True)
class PickParams:
    """Of several pictures around a moment the sharpest."""

    of: int  # pictures that are compared, the nearest ones
    within_s: float  # seconds from the moment

    def to_json(self) -> dict[str, Any]:
        return {"of": self.of, "within_s": self.within_s}


@dataclass(frozen=True, slots=True)
class CaptureParams:
    """What a capture was asked to do. Kept as JSON in the request row (`to_json`, `from_json`)."""

    mode: CaptureMode
    fps: float  # frames a second on the grid; 1 for single_frame
    duration: float | None  # seconds; None: until cancelled
    sampling: Sampling
    max_frames: int | None
    jpeg_quality: int
    transport: Transport
    frame_timestamp: datetime | None = None
    max_staleness: float = 0  # seconds; single_frame of an open stream: the last keyframe will do while it is younger
    reader: str | None = None  # the camera's; None: RTSP__READER
    pre_roll: float = 2.0  # seconds before an event that are stored (event_driven)
    post_roll: float = 5.0  # seconds after it
    motion: MotionParams = MotionParams()
    burst: BurstParams | None = None
    encoding: Encoding = Encoding.JPEG
    pick: PickParams | None = None  # None: the nearest picture

    @property
    def slots(self) -> int | None:
        """How many slots the grid has: ceil(duration * fps); None without an end."""
        if self.mode is CaptureMode.SINGLE_FRAME:
            return 1
        if self.duration is None:
            return None
        # 5 s x 0.1 fps is 0.5000000000000001 in floating point elsewhere: a billionth of a slot is no slot.
        exact = self.duration * self.fps
        return max(1, -int(-(exact - 1e-9) // 1))

    def to_json(self) -> dict[str, Any]:
        return {
            "mode": self.mode.value, "fps": self.fps, "duration": self.duration, "sampling": self.sampling.value,
            "max_frames": self.max_frames, "jpeg_quality": self.jpeg_quality, "transport": self.transport.value,
            "frame_timestamp": self.frame_timestamp.isoformat() if self.frame_timestamp else None,
            "max_staleness": self.max_staleness, "reader": self.reader, "pre_roll": self.pre_roll,
            "post_roll": self.post_roll, "motion": self.motion.to_json(),
            "burst": self.burst.to_json() if self.burst else None, "encoding": self.encoding.value,
            "pick": self.pick.to_json() if self.pick else None,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CaptureParams:
        """Rows of before a field was there have its default."""
        at = data["frame_timestamp"]
        return cls(
            mode=CaptureMode(data["mode"]), fps=data["fps"], duration=data["duration"],
            sampling=Sampling(data["sampling"]), max_frames=data["max_frames"], jpeg_quality=data["jpeg_quality"],
            transport=Transport(data["transport"]), frame_timestamp=datetime.fromisoformat(at) if at else None,
            max_staleness=data.get("max_staleness", 0), reader=data.get("reader"),
            pre_roll=data.get("pre_roll", 2.0), post_roll=data.get("post_roll", 5.0),
            motion=MotionParams(**data.get("motion", {})),
            burst=BurstParams(**data["burst"]) if data.get("burst") else None,
            encoding=Encoding(data.get("encoding", "jpeg")),
            pick=PickParams(**data["pick"]) if data.get("pick") else None,
        )  # fmt: skip


@dataclass(slots=True)
class NewCapture:
    """A capture as it is stored first, pending."""

    id: UUID
    camera_id: str
    capture_mode: str
    rtsp_url: str  # encrypted
    params: dict[str, Any]  # CaptureParams
    meta: dict[str, Any]
    owner: str | None = None
    source_type: str = "rtsp"
    status: str = "pending"


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One stored object and its row's values. Made only after the object is durable."""

    frame_id: UUID
    request_id: UUID
    camera_id: str
    source_type: SourceType
    sequence: int
    storage_path: str
    timestamp: datetime
    timestamp_source: TimestampSource
    timestamp_uncertainty_ms: float | None
    width: int
    height: int
    size_bytes: int
    format: str
    content_type: str
    sha256: str
    camera_timestamp: datetime | None = None  # by the camera's own clock, where it is known
    filename: str | None = None
    exif: dict[str, Any] | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    integrity: Integrity = Integrity.VERIFIED
    quality: dict[str, Any] | None = None  # FrameInfo.quality; None: it could not be judged


MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Claim:
    """A capture that this process owns: every state write carries `epoch` (fencing)."""

    request_id: UUID
    epoch: int
    resumed: bool
    attempts: int = 0  # owners in a row that died over it without progress, this one not counted

    @property
    def poisoned(self) -> bool:
        """Whether it is not run any more, only ended: it seems to be what its owners died of."""
        return self.attempts >= MAX_ATTEMPTS


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What a stream turned out to be."""

    codec: str
    width: int
    height: int
    fps: float | None

    def to_json(self) -> dict[str, Any]:
        return {"codec": self.codec, "width": self.width, "height": self.height, "fps": self.fps}


@dataclass(frozen=True, slots=True)
class CaptureError:
    """A request's latest error, as kept and shown."""

    code: str
    message: str
    retryable: bool
    at: datetime

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "retryable": self.retryable, "at": self.at.isoformat()}


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """One file part of an upload, as it came in: in memory (`data`), else in a temporary file that the receiver removes."""

    index: int
    filename: str | None  # base name, cleaned; for showing only, never a path
    declared_type: str | None  # the part's Content-Type, lower case, without parameters
    path: Path
    size: int  # bytes received
    sha256: str  # hex, of the bytes received
    too_large: bool = False  # it went past UPLOAD__MAX_FILE_SIZE; there is nothing usable then
    data: bytes | None = None  # its bytes, of a small upload; then there is no file at `path`


@dataclass(frozen=True, slots=True)
class Rejected:
    """One refused file of an upload, as kept in the request row and shown."""

    index: int
    filename: str | None
    code: str
    detail: str
    retryable: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "index": self.index, "filename": self.filename, "code": self.code,
            "detail": self.detail, "retryable": self.retryable,
        }  # fmt: skip


class SessionState(StrEnum):
    """Of a direct upload, as kept; clients also see `completing` (open, and its completion runs)."""

    OPEN = "open"
    COMPLETED = "completed"
    FAILED = "failed"
    ABORTED = "aborted"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class StagedPart:
    """A part of a direct upload that has arrived."""

    number: int  # from 1
    size: int  # bytes
    etag: str  # without quotes


class Phase(StrEnum):
    """Whether a picture shows its subject before what is to be compared, or after it."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """What a list of requests is narrowed to; times are inclusive from, exclusive to."""

    camera_id: str | None = None
    status: IngestionStatus | None = None
    source_type: SourceType | None = None
    capture_mode: CaptureMode | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    group_id: UUID | None = None
    subject: str | None = None
    session: str | None = None
    phase: Phase | None = None


@dataclass(frozen=True, slots=True)
class FrameFilter:
    """What a list of frames is narrowed to, and its order by capture time. `from_`, `to`: capture times."""

    camera_id: str | None = None
    request_id: UUID | None = None
    from_: datetime | None = None
    to: datetime | None = None
    stored_from: datetime | None = None
    stored_to: datetime | None = None
    source_type: SourceType | None = None
    subject: str | None = None
    session: str | None = None
    phase: Phase | None = None
    quality: QualityVerdict | None = None
    descending: bool = False


class QualityVerdict(StrEnum):
    """Whether a frame is fit to be compared."""

    GOOD = "good"
    SUSPECT = "suspect"
    BAD = "bad"


class QualityReason(StrEnum):
    """Why a frame is not good (docs/quality.md). The last two: of captures only."""

    BLURRED = "blurred"
    DARK = "dark"
    BRIGHT = "bright"
    FLAT = "flat"
    COVERED = "covered"
    FROZEN = "frozen"
    MOVED = "moved"


class AlignmentStatus(StrEnum):
    """How a pair's frames lie on each other. same_size: as they are, which no alignment found was better than."""

    ALIGNED = "aligned"
    SAME_SIZE = "same_size"
    FAILED = "failed"
    PENDING = "pending"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class PairFilter:
    """What a list of pairs is narrowed to. `camera_id`: of either frame; times: of the pair's making."""

    label: str | None = None
    subject: str | None = None
    session: str | None = None
    camera_id: str | None = None
    from_: datetime | None = None
    to: datetime | None = None


@dataclass(frozen=True, slots=True)
class PairSide:
    """The frames that may be one side of a pair. `from_`, `to`: capture times."""

    session: str | None = None
    subject: str | None = None
    phase: Phase | None = None
    from_: datetime | None = None
    to: datetime | None = None
    camera_ids: tuple[str, ...] | None = None


class EventKind(StrEnum):
    MOTION = "motion"
    TRIGGER = "trigger"


@dataclass(frozen=True, slots=True)
class EventNote:
    """What is known of an event: written when it begins, while it lasts, and when it is over."""

    id: UUID
    kind: EventKind
    start: float  # capture times, seconds since the epoch, without pre-roll and post-roll
    seen: float  # up to when it has been seen to last
    over: bool
    label: str | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class EventFilter:
    """What a list of events is narrowed to: one request's."""

    request_id: UUID


class LogEventType(StrEnum):
    """Types of the event log (CloudEvents `type`)."""

    FRAME_STORED = "frame.stored"
    FRAME_DELETED = "frame.deleted"
    REQUEST_STARTED = "request.started"
    REQUEST_COMPLETED = "request.completed"
    REQUEST_FAILED = "request.failed"
    REQUEST_CANCELLED = "request.cancelled"
    GAP_OPENED = "camera.gap_opened"
    GAP_CLOSED = "camera.gap_closed"
    QUALITY_CHANGED = "camera.quality_changed"
    PAIR_CREATED = "pair.created"
    PAIR_ALIGNED = "pair.aligned"


@dataclass(frozen=True, slots=True)
class GapFilter:
    """What a camera's gaps are narrowed to: those that last at some moment of `from_` to `to`."""

    camera_id: str
    from_: datetime | None = None
    to: datetime | None = None


@dataclass(frozen=True, slots=True)
class LogFilter:
    """What a reader of the event log may see (`cameras`) and wants; None: all."""

    cameras: CameraGrant
    types: tuple[LogEventType, ...] | None = None
    camera_id: str | None = None
    camera_ids: tuple[str, ...] | None = None
    request_ids: tuple[UUID, ...] | None = None


@dataclass(frozen=True, slots=True)
class CameraFilter:
    """What a list of cameras is narrowed to: nothing yet; cursors are bound to it."""


@dataclass(frozen=True, slots=True)
class ApiKeyFilter:
    """What a list of API keys is narrowed to: nothing yet; cursors are bound to it."""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What the audit is narrowed to; times are inclusive from, exclusive to."""

    subject: str | None = None
    action: str | None = None
    from_: datetime | None = None
    to: datetime | None = None


@dataclass(frozen=True, slots=True)
class KeyName:
    """A client's key within its scope: caller, method and path. `owner`: the principal that it counts for."""

    scope: str
    key: str
    owner: str


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The answer that a key has, and the run that gave it. `body`: as it is kept, or rendered to be given again."""

    run: UUID
    status: int
    location: str | None
    body: Any


class DatabaseIdentity(NamedTuple):
    """Which database this is (functions/database_identity.sql). Where the role may not ask, all but `log_id` are None."""

    log_id: UUID
    system: str | None  # PostgreSQL's system identifier
    timeline: int | None
    database: int | None  # its oid
