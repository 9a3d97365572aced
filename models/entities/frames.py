"""Frames, the object keys that are taken, and frames whose objects are not as they should be."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.entities.base import OBJECT_KEY, Base, Json, created_now, meta_indexes, one_of
from models.entities.requests import IngestionRequest
from models.values import Integrity, SourceType, TimestampSource

FORMATS = ("jpg", "png", "bmp", "tiff", "heic", "webp", "avif", "h264", "h265")
UNDECODED = "state = 'stored' AND integrity = 'undecoded'"

_VERDICT = text("(quality ->> 'verdict')")
POOR = "state = 'stored' AND quality ->> 'verdict' IN ('suspect', 'bad')"  # frames that an index knows: most are good


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
    storage_path: Mapped[str] = mapped_column(OBJECT_KEY)
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
    integrity: Mapped[str] = mapped_column(server_default=text("'verified'"))
    duplicate_of: Mapped[UUID | None]  # no foreign key: the frame that it names may be gone
    exif: Mapped[Json | None]
    meta: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))
    stored_at: Mapped[datetime] = created_now()
    # FrameInfo.quality, or null: a frame from before it was judged, or whose judging failed. The sharpness of a stored frame
    # is (quality ->> 'sharpness')::float8, in Python frame.quality["sharpness"]; comparable within one camera and size.
    quality: Mapped[Json | None]
    held_at: Mapped[datetime | None]  # on hold: neither clients nor retention delete it
    hold_reason: Mapped[str | None]

    request: Mapped[IngestionRequest] = relationship(lazy="raise")

    __table_args__ = (
        UniqueConstraint("request_id", "sequence"),
        CheckConstraint(one_of("state", ("stored", "deleting", "deleted")), name="state"),
        CheckConstraint(one_of("source_type", SourceType), name="source_type"),
        CheckConstraint(one_of("timestamp_source", TimestampSource), name="timestamp_source"),
        CheckConstraint("sequence >= 0 AND width > 0 AND height > 0 AND size_bytes > 0", name="sizes"),
        CheckConstraint(one_of("integrity", Integrity), name="integrity"),
        CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256"),
        CheckConstraint(one_of("format", FORMATS), name="format"),
        Index(None, "capture_timestamp", "id", postgresql_where=text("state = 'stored'")),
        Index(None, "camera_id", "capture_timestamp", "id", postgresql_where=text("state = 'stored'")),
        Index(None, "request_id", "capture_timestamp", "id", postgresql_where=text("state = 'stored'")),
        Index(None, "source_type", "capture_timestamp", "id", postgresql_where=text("state = 'stored'")),
        *meta_indexes("frames", "capture_timestamp", "state = 'stored'"),
        Index("ix_frames_undecoded", "stored_at", "id", postgresql_where=text(UNDECODED)),
        Index(None, "camera_id", "sha256", "stored_at", "id"),
        Index("ix_frames_poor", _VERDICT, "capture_timestamp", "id", postgresql_where=text(POOR)),
        Index("ix_frames_camera_poor", "camera_id", _VERDICT, "capture_timestamp", "id", postgresql_where=text(POOR)),
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

    key: Mapped[str] = mapped_column(OBJECT_KEY, primary_key=True)
    state: Mapped[str]
    at: Mapped[datetime] = created_now()

    __table_args__ = (
        CheckConstraint(one_of("state", ("live", "condemned")), name="state"),
        Index("ix_object_keys_condemned", "at", postgresql_where=text("state = 'condemned'")),
    )


class IntegrityViolation(Base):
    """A stored frame whose object is not there, or not of the row's size, as the sweeper found it."""

    __tablename__ = "integrity_violations"

    frame_id: Mapped[UUID] = mapped_column(ForeignKey("frames.id", ondelete="CASCADE"), primary_key=True)
    kind: Mapped[str]
    found_bytes: Mapped[int | None] = mapped_column(BigInteger)
    found_at: Mapped[datetime] = created_now()

    __table_args__ = (CheckConstraint(one_of("kind", ("missing", "size")), name="kind"),)
