"""Pairs of frames, before and after."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from models.entities.base import Base, Json, created_now, one_of
from models.values import AlignmentStatus


class Pair(Base):
    """Two stored frames; the same two with the same label are one pair. Deleted with either frame."""

    __tablename__ = "pairs"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    before_id: Mapped[UUID] = mapped_column(ForeignKey("frames.id", ondelete="CASCADE"))
    after_id: Mapped[UUID] = mapped_column(ForeignKey("frames.id", ondelete="CASCADE"))
    before_camera: Mapped[str]
    after_camera: Mapped[str]
    label: Mapped[str | None]
    subject: Mapped[str | None]
    session: Mapped[str | None]  # of before's meta, else of after's: what lists are filtered by
    meta: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))
    status: Mapped[str]
    alignment: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))  # of processes that began the alignment
    leased_until: Mapped[datetime | None]  # whoever aligns it has so long
    created_at: Mapped[datetime] = created_now()

    __table_args__ = (
        CheckConstraint("before_id <> after_id", name="two"),
        CheckConstraint(one_of("status", AlignmentStatus), name="status"),
        Index("uq_pairs_frames_label", "before_id", "after_id", text("coalesce(label, '')"), unique=True),
        Index(None, "after_id"),
        Index(None, "created_at", "id"),
        Index(None, "before_camera", "created_at", "id"),
        Index(None, "after_camera", "created_at", "id"),
        Index("ix_pairs_label", "label", "created_at", "id", postgresql_where=text("label IS NOT NULL")),
        Index("ix_pairs_subject", "subject", "created_at", "id", postgresql_where=text("subject IS NOT NULL")),
        Index(
            "ix_pairs_session",
            text("left(session, 100)"),
            "created_at",
            "id",
            postgresql_where=text("session IS NOT NULL"),
        ),
        Index("ix_pairs_pending", "created_at", "id", postgresql_where=text("status = 'pending'")),
    )
