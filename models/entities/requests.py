"""Requests with their ledger, and what belongs to a capture: its lease, gaps and events."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Computed, FetchedValue, ForeignKey, Index, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from models.entities.base import (
    LONGEST_LEASE,
    PLAIN_URL,
    Base,
    Json,
    SlotRanges,
    created_now,
    meta_indexes,
    one_of,
    slot_ranges,
)
from models.values import CaptureMode, DropReason, IngestionStatus, SourceType


def count_slots(ranges: SlotRanges) -> int:
    """How many slots a multirange holds."""
    return sum((item.upper or 0) - (item.lower or 0) for item in ranges)


def dropped_column(reason: DropReason) -> str:
    """The request row's column with the slots dropped for that reason."""
    return f"dropped_{reason.value}"


_DROPPED = [(reason.value, dropped_column(reason)) for reason in DropReason]
_DROPPED_SUM = " - ".join(f"slot_count({dropped_column(reason)})" for reason in DropReason)


class LedgerCounts:
    """What a request's row says of its slots. Of entities, and of rows that were read without them."""

    __slots__ = ()

    @property
    def due(self) -> int:
        """The slots that have come due and that clients see: `expected` on the wire."""
        row: Any = self
        return int(row.expected) - count_slots(row.idle_slots)

    def dropped(self) -> dict[str, int]:
        """Slots dropped, by reason; only reasons that occurred."""
        found = {}
        for reason, column in _DROPPED:
            if ranges := getattr(self, column):
                found[reason] = count_slots(ranges)
        return found


class IngestionRequest(Base, LedgerCounts):
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
    dropped_camera_down: Mapped[SlotRanges] = slot_ranges()
    dropped_no_picture: Mapped[SlotRanges] = slot_ranges()
    dropped_decode_failed: Mapped[SlotRanges] = slot_ranges()
    dropped_queue_full: Mapped[SlotRanges] = slot_ranges()
    dropped_spool_full: Mapped[SlotRanges] = slot_ranges()
    dropped_spooled: Mapped[SlotRanges] = slot_ranges()
    dropped_surplus: Mapped[SlotRanges] = slot_ranges()
    dropped_lease_lost: Mapped[SlotRanges] = slot_ranges()
    dropped_cancelled: Mapped[SlotRanges] = slot_ranges()
    dropped_rejected: Mapped[SlotRanges] = slot_ranges()
    idle_slots: Mapped[SlotRanges] = slot_ranges()  # event_driven: slots that belong to no event; clients do not see them
    in_flight: Mapped[int] = mapped_column(
        Integer, Computed(f"expected - slot_count(idle_slots) - stored - {_DROPPED_SUM}", persisted=True)
    )
    last_frame_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = created_now()
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = created_now()

    __table_args__ = (
        CheckConstraint(one_of("status", IngestionStatus), name="status"),
        CheckConstraint(one_of("source_type", SourceType), name="source_type"),
        CheckConstraint(f"capture_mode IS NULL OR {one_of('capture_mode', CaptureMode)}", name="capture_mode"),
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
            "ix_ingestion_requests_pending_owner",
            "owner",
            postgresql_where=text("status = 'pending' AND owner IS NOT NULL"),
        ),
        *meta_indexes("ingestion_requests", "created_at"),
        Index("ix_ingestion_requests_group_id", "group_id", "id", postgresql_where=text("group_id IS NOT NULL")),
        Index("ix_ingestion_requests_plain_url", "id", postgresql_where=text(PLAIN_URL)),
    )


class CaptureLease(Base):
    """Who runs a capture. Lapsed: expires_at is null, in the past, or further ahead than `ttl`, its owner's LEASE_TTL."""

    __tablename__ = "capture_leases"

    request_id: Mapped[UUID] = mapped_column(ForeignKey("ingestion_requests.id", ondelete="CASCADE"), primary_key=True)
    camera_id: Mapped[str]
    principal: Mapped[str | None]  # the request's owner, whose share it takes
    owner: Mapped[str | None]  # the process
    epoch: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    expires_at: Mapped[datetime | None]
    ttl: Mapped[float] = mapped_column(server_default=text(LONGEST_LEASE))  # seconds
    attempts: Mapped[int] = mapped_column(server_default=text("0"))  # owners in a row that died without progress
    mark: Mapped[str] = mapped_column(server_default=text("'0 '"))  # lease_mark() when the owner began
    claimed_at: Mapped[datetime] = mapped_column(server_default=text("now()"))

    __table_args__ = (
        CheckConstraint("attempts >= 0", name="attempts"),
        CheckConstraint("epoch >= 0", name="epoch"),
        CheckConstraint("ttl > 0", name="ttl"),
        Index(None, "expires_at"),
        Index(None, "owner"),
    )


class CaptureGap(Base):
    """A time in which a capture had no pictures; `to_at` is null while it lasts."""

    __tablename__ = "capture_gaps"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    request_id: Mapped[UUID] = mapped_column(ForeignKey("ingestion_requests.id", ondelete="CASCADE"))
    camera_id: Mapped[str] = mapped_column(server_default=FetchedValue())  # by a trigger: the request's
    from_at: Mapped[datetime]
    to_at: Mapped[datetime | None]
    reason: Mapped[str]

    __table_args__ = (
        CheckConstraint("to_at IS NULL OR to_at >= from_at", name="order"),
        Index(None, "request_id", "from_at", "id"),
        Index(None, "camera_id", "from_at", "id"),
        Index("ix_capture_gaps_camera_until", "camera_id", text("coalesce(to_at, 'infinity'::timestamptz)")),
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
    created_at: Mapped[datetime] = created_now()

    __table_args__ = (
        CheckConstraint(one_of("kind", ("motion", "trigger")), name="kind"),
        CheckConstraint("seen_at >= from_at AND (to_at IS NULL OR to_at >= from_at)", name="order"),
        Index(None, "request_id", "from_at", "id"),
        Index(None, "request_id", "created_at", "id"),
    )
