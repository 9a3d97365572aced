"""The tables (SQLAlchemy 2 declarative). Migrations in repositories/migrations make them; a test compares the two.

Every time is `timestamptz`; relationships do not exist on purpose (queries say what they load), and column
loading of deferred attributes would raise rather than run SQL behind the reader's back.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Computed,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, INT4MULTIRANGE, JSONB, Range
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from models.values import CaptureMode, DropReason, IngestionStatus, SessionState, SourceType, TimestampSource

Json = dict[str, Any]
SEALED_PREFIX = "enc1:"  # how texts begin that rest encrypted (utils.secret_box)
SlotRanges = list[Range[int]]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        UUID: Uuid(as_uuid=True),
        Json: JSONB,
        list[Json]: JSONB,
        str: Text,
        float: Float(53),
        SlotRanges: INT4MULTIRANGE,
    }


def _one_of(column: str, values: Any) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


def _now() -> Mapped[datetime]:
    return mapped_column(server_default=func.now())


def _slots() -> Mapped[SlotRanges]:
    return mapped_column(server_default=text("'{}'::int4multirange"))


_KEY = Text(collation="C")  # object keys sort as the store lists them: byte by byte

_PLAIN_URL = f"rtsp_url NOT LIKE '{SEALED_PREFIX}%'"  # rows from before encryption


def dropped_column(reason: DropReason) -> str:
    """The request row's column with the slots dropped for that reason."""
    return f"dropped_{reason.value}"


_DROPPED_SUM = " - ".join(f"slot_count({dropped_column(reason)})" for reason in DropReason)


class IngestionRequest(Base):
    """A capture or an upload, and its ledger: expected = stored + in_flight + dropped, held by the row itself."""

    __tablename__ = "ingestion_requests"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    camera_id: Mapped[str]
    source_type: Mapped[str]
    capture_mode: Mapped[str | None]
    status: Mapped[str]
    rtsp_url: Mapped[str | None]  # whole, with its password; encrypted (utils.secret_box)
    params: Mapped[Json | None]
    meta: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))
    error: Mapped[Json | None]
    source: Mapped[Json | None]
    group_id: Mapped[UUID | None]  # requests of one burst
    owner: Mapped[str | None]  # the principal that asked (models.access); null: access was off
    rejected: Mapped[list[Json]] = mapped_column(server_default=text("'[]'::jsonb"))
    grid_start: Mapped[datetime | None]
    expected: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    stored: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    deleted: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    duplicates: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    reconnects: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    dropped_camera_down: Mapped[SlotRanges] = _slots()
    dropped_no_picture: Mapped[SlotRanges] = _slots()
    dropped_decode_failed: Mapped[SlotRanges] = _slots()
    dropped_queue_full: Mapped[SlotRanges] = _slots()
    dropped_spool_full: Mapped[SlotRanges] = _slots()
    dropped_spooled: Mapped[SlotRanges] = _slots()
    dropped_surplus: Mapped[SlotRanges] = _slots()
    dropped_lease_lost: Mapped[SlotRanges] = _slots()
    dropped_cancelled: Mapped[SlotRanges] = _slots()
    dropped_rejected: Mapped[SlotRanges] = _slots()
    idle_slots: Mapped[SlotRanges] = _slots()  # event_driven: slots that belong to no event; clients do not see them
    in_flight: Mapped[int] = mapped_column(
        Integer, Computed(f"expected - slot_count(idle_slots) - stored - {_DROPPED_SUM}", persisted=True)
    )
    last_frame_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _now()
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = _now()

    __table_args__ = (
        CheckConstraint(_one_of("status", IngestionStatus), name="status"),
        CheckConstraint(_one_of("source_type", SourceType), name="source_type"),
        CheckConstraint(f"capture_mode IS NULL OR {_one_of('capture_mode', CaptureMode)}", name="capture_mode"),
        CheckConstraint("(source_type = 'rtsp') = (capture_mode IS NOT NULL)", name="mode_of_rtsp"),
        CheckConstraint("in_flight >= 0", name="ledger"),
        CheckConstraint("expected >= 0 AND stored >= 0 AND deleted >= 0 AND deleted <= stored", name="counters"),
        CheckConstraint(
            "status NOT IN ('completed', 'failed', 'cancelled') OR (in_flight = 0 AND completed_at IS NOT NULL)",
            name="final_is_settled",
        ),
        Index(None, "created_at", "id"),
        Index(None, "camera_id", "created_at", "id"),
        Index(None, "status", "created_at", "id"),
        Index(None, "source_type", "created_at", "id"),
        Index(None, "capture_mode", "created_at", "id"),
        Index(
            "ix_ingestion_requests_pending_owner", "owner",
            postgresql_where=text("status = 'pending' AND owner IS NOT NULL"),
        ),
        Index("ix_ingestion_requests_group_id", "group_id", "id", postgresql_where=text("group_id IS NOT NULL")),
        Index("ix_ingestion_requests_plain_url", "id", postgresql_where=text(_PLAIN_URL)),
    )

    @property
    def due(self) -> int:
        """The slots that have come due and that clients see: `expected` on the wire."""
        return self.expected - count_slots(self.idle_slots)

    def dropped(self) -> dict[str, int]:
        """Slots dropped, by reason; only reasons that occurred."""
        counts = {reason.value: count_slots(getattr(self, dropped_column(reason))) for reason in DropReason}
        return {reason: count for reason, count in counts.items() if count}


def count_slots(ranges: SlotRanges) -> int:
    """How many slots a multirange holds."""
    return sum((item.upper or 0) - (item.lower or 0) for item in ranges)


class CaptureLease(Base):
    """Who runs a capture. Lapsed: expires_at is null, in the past, or further ahead than a lease can be."""

    __tablename__ = "capture_leases"

    request_id: Mapped[UUID] = mapped_column(ForeignKey("ingestion_requests.id", ondelete="CASCADE"), primary_key=True)
    camera_id: Mapped[str]
    owner: Mapped[str | None]
    epoch: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    expires_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("epoch >= 0", name="epoch"),
        Index(None, "expires_at"),
        Index(None, "owner"),
    )


class Frame(Base):
    """A stored frame; its own tombstone once deleted (stored, deleting, deleted)."""

    __tablename__ = "frames"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    request_id: Mapped[UUID] = mapped_column(ForeignKey("ingestion_requests.id", ondelete="RESTRICT"))
    camera_id: Mapped[str]
    source_type: Mapped[str]
    sequence: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(server_default=text("'stored'"))
    filename: Mapped[str | None]
    storage_path: Mapped[str] = mapped_column(_KEY)
    capture_timestamp: Mapped[datetime]
    timestamp_source: Mapped[str]
    timestamp_uncertainty_ms: Mapped[float | None]
    camera_timestamp: Mapped[datetime | None]  # the camera's own clock, where it is known
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    format: Mapped[str]
    content_type: Mapped[str]
    sha256: Mapped[str]
    duplicate_of: Mapped[UUID | None]  # no foreign key: the frame that it names may be gone
    exif: Mapped[Json | None]
    meta: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))
    stored_at: Mapped[datetime] = _now()
    held_at: Mapped[datetime | None]  # on hold: neither clients nor retention delete it
    hold_reason: Mapped[str | None]

    request: Mapped[IngestionRequest] = relationship(lazy="raise")

    __table_args__ = (
        UniqueConstraint("request_id", "sequence"),
        CheckConstraint(_one_of("state", ("stored", "deleting", "deleted")), name="state"),
        CheckConstraint(_one_of("source_type", SourceType), name="source_type"),
        CheckConstraint(_one_of("timestamp_source", TimestampSource), name="timestamp_source"),
        CheckConstraint("sequence >= 0 AND width > 0 AND height > 0 AND size_bytes > 0", name="sizes"),
        CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256"),
        CheckConstraint(_one_of("format", ("jpg", "png", "bmp", "tiff")), name="format"),
        Index(None, "capture_timestamp", "id", postgresql_where=text("state = 'stored'")),
        Index(None, "camera_id", "capture_timestamp", "id", postgresql_where=text("state = 'stored'")),
        Index(None, "request_id", "capture_timestamp", "id", postgresql_where=text("state = 'stored'")),
        Index(None, "source_type", "capture_timestamp", "id", postgresql_where=text("state = 'stored'")),
        Index(None, "camera_id", "sha256", "stored_at", "id"),
        CheckConstraint("hold_reason IS NULL OR held_at IS NOT NULL", name="hold"),
        # Of tombstones no key is looked up: without them the index stays as small as what is stored.
        Index("uq_frames_storage_path", "storage_path", unique=True, postgresql_where=text("state <> 'deleted'")),
        Index("ix_frames_deleting", "stored_at", postgresql_where=text("state = 'deleting'")),
        Index(None, "stored_at", "id", postgresql_where=text("state = 'stored'")),
        Index(None, "camera_id", "stored_at", "id", postgresql_where=text("state = 'stored'")),
    )


class ObjectKey(Base):
    """Which object keys are taken: `live` with a row, `condemned` by the sweeper before it deletes."""

    __tablename__ = "object_keys"

    key: Mapped[str] = mapped_column(_KEY, primary_key=True)
    state: Mapped[str]
    at: Mapped[datetime] = _now()

    __table_args__ = (
        CheckConstraint(_one_of("state", ("live", "condemned")), name="state"),
        Index("ix_object_keys_condemned", "at", postgresql_where=text("state = 'condemned'")),
    )


class IntegrityViolation(Base):
    """A stored frame whose object is not there, or not of the row's size, as the sweeper found it."""

    __tablename__ = "integrity_violations"

    frame_id: Mapped[UUID] = mapped_column(ForeignKey("frames.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str]
    found_bytes: Mapped[int | None] = mapped_column(BigInteger)
    found_at: Mapped[datetime] = _now()

    __table_args__ = (CheckConstraint(_one_of("kind", ("missing", "size")), name="kind"),)


class SweeperState(Base):
    """The one row that says how far the sweeper's pass over the bucket has come, whichever process runs it."""

    __tablename__ = "sweeper_state"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    cursor: Mapped[str] = mapped_column(server_default=text("''"))  # the last key of what has been looked at
    seen: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))  # objects of this pass
    orphans: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))  # those of them without a row
    stopped: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))  # this pass condemns nothing more
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]  # of the last pass that came to its end

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class StorageUsage(Base):
    """The one row with the bytes of all stored frames, but for the changes in `storage_changes`."""

    __tablename__ = "storage_usage"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    frames: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class StorageChange(Base):
    """A frame that came or went: written by a trigger on `frames`, summed up into `storage_usage` by retention."""

    __tablename__ = "storage_changes"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    frames: Mapped[int] = mapped_column(Integer)


class CaptureGap(Base):
    """A time in which a capture had no pictures; `to_at` is null while it lasts."""

    __tablename__ = "capture_gaps"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    request_id: Mapped[UUID] = mapped_column(ForeignKey("ingestion_requests.id", ondelete="CASCADE"))
    from_at: Mapped[datetime]
    to_at: Mapped[datetime | None]
    reason: Mapped[str]

    __table_args__ = (
        CheckConstraint("to_at IS NULL OR to_at >= from_at", name="order"),
        Index(None, "request_id", "from_at", "id"),
        Index("uq_capture_gaps_open", "request_id", unique=True, postgresql_where=text("to_at IS NULL")),
    )


class CaptureEvent(Base):
    """Something that happened before a camera: an event_driven capture stores the slots around it."""

    __tablename__ = "capture_events"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    request_id: Mapped[UUID] = mapped_column(ForeignKey("ingestion_requests.id", ondelete="CASCADE"))
    kind: Mapped[str]
    label: Mapped[str | None]
    score: Mapped[float | None]
    from_at: Mapped[datetime]  # capture times, without pre-roll and post-roll
    to_at: Mapped[datetime | None]  # null while it lasts
    seen_at: Mapped[datetime]  # up to when it has been seen to last
    created_at: Mapped[datetime] = _now()

    __table_args__ = (
        CheckConstraint(_one_of("kind", ("motion", "trigger")), name="kind"),
        CheckConstraint("seen_at >= from_at AND (to_at IS NULL OR to_at >= from_at)", name="order"),
        Index(None, "request_id", "from_at", "id"),
        Index(None, "request_id", "created_at", "id"),
    )


class CameraConfiguration(Base):
    """A registered camera."""

    __tablename__ = "camera_configurations"

    camera_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    description: Mapped[str | None]
    rtsp_url: Mapped[str]  # encrypted (utils.secret_box)
    transport: Mapped[str] = mapped_column(server_default=text("'tcp'"))
    location: Mapped[str | None]
    camera_angle: Mapped[str | None]
    calibration: Mapped[Json | None]
    default_fps: Mapped[float | None]
    enabled: Mapped[bool] = mapped_column(Boolean, server_default=text("true"))
    keep_open: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    reader: Mapped[str | None]
    retention_days: Mapped[float | None]  # null: RETENTION__DAYS
    meta: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()

    __table_args__ = (
        CheckConstraint("retention_days IS NULL OR retention_days > 0", name="retention_days"),
        CheckConstraint("camera_id ~ '^[A-Za-z0-9._-]{1,100}$' AND camera_id !~ '^[.]+$'", name="camera_id"),
        CheckConstraint(_one_of("transport", ("tcp", "udp")), name="transport"),
        CheckConstraint("default_fps IS NULL OR (default_fps > 0 AND default_fps <= 30)", name="default_fps"),
        CheckConstraint("reader IS NULL OR reader IN ('opencv', 'pyav')", name="reader"),
        Index(None, "created_at", "camera_id"),
        Index("ix_camera_configurations_plain_url", "camera_id", postgresql_where=text(_PLAIN_URL)),
    )


class IdempotencyKey(Base):
    """A retry's memory: the key commits first with a lease, the answer with the frames.

    `run` is who has it; `begun`: something was committed under `request_id` whose answer comes later. The answer is
    plain JSON, not jsonb: it is given again as it was, in its order.
    """

    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str | None]
    request_id: Mapped[UUID]
    expires_at: Mapped[datetime | None]
    status: Mapped[int | None] = mapped_column(Integer)
    answer: Mapped[Json | None] = mapped_column(JSON)
    created_at: Mapped[datetime] = _now()
    run: Mapped[UUID]
    begun: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    location: Mapped[str | None]

    __table_args__ = (Index(None, "created_at"),)


class UploadSession(Base):
    """A direct upload: the client PUTs the file to a staging key, `complete` checks and stores it (DESIGN, rule 11)."""

    __tablename__ = "upload_sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    request_id: Mapped[UUID] = mapped_column(unique=True)  # fixed from the start: however often it is completed
    owner: Mapped[str | None]  # the principal that opened it (models.access); null: access was off
    camera_id: Mapped[str]
    filename: Mapped[str]
    content_type: Mapped[str | None]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str | None]
    meta: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))
    part_size: Mapped[int | None] = mapped_column(BigInteger)  # null: one PUT
    upload_id: Mapped[str | None]  # the store's name of the multipart upload
    state: Mapped[str] = mapped_column(server_default=text("'open'"))
    error: Mapped[Json | None]  # of a failed one: code, message, retryable, rejected
    epoch: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))  # completions begun
    busy_until: Mapped[datetime | None]  # the lease of the completion that runs
    arrived_at: Mapped[datetime | None]  # when it was first completed: the arrival, and in the frame's id
    created_at: Mapped[datetime] = _now()
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    cleared_at: Mapped[datetime | None]  # when its staging object was removed

    __table_args__ = (
        CheckConstraint(_one_of("state", SessionState), name="state"),
        CheckConstraint("size_bytes > 0 AND (part_size IS NULL OR part_size > 0)", name="sizes"),
        CheckConstraint("sha256 IS NULL OR sha256 ~ '^[0-9a-f]{64}$'", name="sha256"),
        CheckConstraint("(state = 'open') = (ended_at IS NULL)", name="ended"),
        CheckConstraint("(state = 'failed') = (error IS NOT NULL)", name="error_of_failed"),
        Index("ix_upload_sessions_open", "expires_at", "id", postgresql_where=text("state = 'open'")),
        Index(
            "ix_upload_sessions_uncleared", "ended_at", "id",
            postgresql_where=text("state <> 'open' AND cleared_at IS NULL"),
        ),
        Index("ix_upload_sessions_cleared", "ended_at", "id", postgresql_where=text("cleared_at IS NOT NULL")),
    )  # fmt: skip


class OutboxPending(Base):
    """Events as their transactions wrote them (triggers, functions_0005), before the relay gives them their order."""

    __tablename__ = "outbox_pending"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    event: Mapped[Json]
    created_at: Mapped[datetime] = _now()


class EventLog(Base):
    """The one row from which events take their numbers. A restored database gets a new log_id: older cursors are void."""

    __tablename__ = "event_log"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    log_id: Mapped[UUID]
    seq: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))  # the newest event's
    oldest: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))  # the first that retention has left

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class Event(Base):
    """Events in their one order."""

    __tablename__ = "events"

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    type: Mapped[str]
    camera_id: Mapped[str | None]
    event: Mapped[Json]
    created_at: Mapped[datetime] = _now()

    __table_args__ = (Index(None, "camera_id", "seq"),)


class ApiKey(Base):
    """An API key: who may call. Only SHA-256 hashes of the whole key are kept."""

    __tablename__ = "api_keys"

    key_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    secret_hash: Mapped[str]
    previous_hash: Mapped[str | None]  # the secret before the last rotation, good until `previous_until`
    previous_until: Mapped[datetime | None]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    cameras: Mapped[list[str] | None] = mapped_column(ARRAY(Text))  # null: all
    created_at: Mapped[datetime] = _now()
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]  # to the minute
    revoked_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("key_id ~ '^[0-9A-Za-z]{12}$'", name="key_id"),
        CheckConstraint("(previous_hash IS NULL) = (previous_until IS NULL)", name="previous"),
        Index(None, "created_at", "key_id"),
    )


class BrowserSession(Base):
    """A browser that was given a cookie for a credential. `id`: SHA-256 of the cookie's value.

    `secret_hash`: SHA-256 of the credential, for keys and the bootstrap secret: the session ends with it. Scopes and
    cameras are a JWT's; those of keys are looked up.
    """

    __tablename__ = "browser_sessions"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    subject: Mapped[str]
    secret_hash: Mapped[str | None]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    cameras: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = _now()
    expires_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint(_one_of("kind", ("key", "bootstrap", "jwt")), name="kind"),
        Index(None, "expires_at"),
    )


class AccessState(Base):
    """The one row of access control: raised by a trigger with every change of a key or session."""

    __tablename__ = "access_state"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    cursor_key: Mapped[bytes]  # HMAC key of list cursors

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class DeletedCamera(Base):
    """A camera id that was registered once: with frames left, only an administrator registers it again."""

    __tablename__ = "deleted_cameras"

    camera_id: Mapped[str] = mapped_column(primary_key=True)
    deleted_at: Mapped[datetime] = _now()


class Audit(Base):
    """Who did what. A trigger refuses changes, and removal before `keep_until`."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    entry: Mapped[UUID] = mapped_column(server_default=func.gen_random_uuid())
    at: Mapped[datetime] = _now()
    subject: Mapped[str | None]
    kind: Mapped[str | None]
    address: Mapped[str | None]
    action: Mapped[str]
    target: Mapped[str | None]
    status: Mapped[int | None] = mapped_column(Integer)
    trace_id: Mapped[str | None]
    details: Mapped[Json | None]
    keep_until: Mapped[datetime] = mapped_column(server_default=text("(now() + '365 days'::interval)"))

    __table_args__ = (
        Index(None, "at", "entry"),
        Index(None, "keep_until"),
        Index("uq_audit_entry", "entry", unique=True),
    )
