"""The event log: what transactions wrote, the log itself, and where it stands."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from models.entities.base import Base, Json, created_now


class OutboxPending(Base):
    """Events as their transactions wrote them (repositories/functions), before the relay orders them."""

    __tablename__ = "outbox_pending"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    event: Mapped[Json]
    created_at: Mapped[datetime] = created_now()


class EventLogState(Base):
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
    created_at: Mapped[datetime] = created_now()

    __table_args__ = (
        Index(None, "camera_id", "seq"),
        # To blank the event of a frame that is deleted (functions/blank_copies.sql).
        Index("ix_events_frame_stored", text("(event ->> 'subject')"), postgresql_where=text("type = 'frame.stored'")),
    )
