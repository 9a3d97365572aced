"""Idempotency keys and direct uploads: what lets a client try again."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import JSON, BigInteger, Boolean, CheckConstraint, Index, Integer, text
from sqlalchemy.orm import Mapped, mapped_column

from models.entities.base import LONGEST_LEASE, Base, Json, created_now, one_of
from models.values import SessionState


class IdempotencyKey(Base):
    """A retry's memory: the key commits first with a lease, the answer with the frames.

    `run` is who has it; `begun`: something was committed under `request_id` whose answer comes later. The answer is
    plain JSON, not jsonb: it is given again as it was, in its order; frames are in it as ids (services.idempotency.answers).
    """

    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str | None]
    request_id: Mapped[UUID]
    expires_at: Mapped[datetime | None]
    status: Mapped[int | None] = mapped_column(Integer)
    answer: Mapped[Json | None] = mapped_column(JSON)
    created_at: Mapped[datetime] = created_now()
    run: Mapped[UUID]
    begun: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    location: Mapped[str | None]
    lease: Mapped[float] = mapped_column(server_default=text(LONGEST_LEASE))  # seconds: how far expires_at may be ahead
    owner: Mapped[str | None]  # the principal (models.access) that it counts for; null: from before the quota

    __table_args__ = (
        CheckConstraint("lease > 0", name="lease"),
        Index(None, "created_at"),
        Index(None, "owner", "created_at"),
    )


class UploadSession(Base):
    """A direct upload: the client PUTs to a staging key, `complete` checks and stores the file (docs/rules.md, rule 11)."""

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
    created_at: Mapped[datetime] = created_now()
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    cleared_at: Mapped[datetime | None]  # when its staging object was removed

    __table_args__ = (
        CheckConstraint(one_of("state", SessionState), name="state"),
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
