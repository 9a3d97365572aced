"""The processes of a deployment, as each one says of itself."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Boolean, CheckConstraint, Index, LargeBinary, text
from sqlalchemy.orm import Mapped, mapped_column

from models.entities.base import Base, Json, created_now, one_of

SITE_CHECK = "site ~ '^[a-z0-9-]{1,40}$'"


class Worker(Base):
    """A process that is alive, or was a moment ago.

    Unlogged: after a crash of PostgreSQL each process writes its row again.
    """

    __tablename__ = "workers"

    worker_id: Mapped[UUID] = mapped_column(primary_key=True)
    role: Mapped[str]
    site: Mapped[str]
    host: Mapped[str]
    version: Mapped[str]
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime] = created_now()
    captures: Mapped[int] = mapped_column(server_default=text("0"))
    streams: Mapped[int] = mapped_column(server_default=text("0"))
    draining: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    joined: Mapped[bool] = mapped_column(Boolean, server_default=text("true"))  # its settings fit the others'
    lease_ttl: Mapped[float]  # RTSP__LEASE_TTL, seconds
    cameras: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))  # its streams' status, by camera
    schema_revision: Mapped[str | None]  # the last step of the schema that its code knows; null of code before 0029

    __table_args__ = (
        CheckConstraint(one_of("role", ("all", "api", "worker")), name="role"),
        CheckConstraint(SITE_CHECK, name="site"),
        CheckConstraint("captures >= 0 AND streams >= 0", name="counts"),
        Index(None, "seen_at"),
        {"prefixes": ["UNLOGGED"]},
    )


class WorkerCall(Base):
    """Something that one process asks of another: a picture, a probe. Unlogged: who waits for it is gone after a crash.

    The answer's JPEG stands in the row: it is there once, at once and for a moment, which an object in the store, made
    durable for each picture, is not.
    """

    __tablename__ = "worker_calls"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    worker_id: Mapped[UUID]  # who is asked
    caller: Mapped[UUID]  # who asks
    kind: Mapped[str]
    request: Mapped[str]  # encrypted (utils.secret_box): it may hold a camera's URL
    expires_at: Mapped[datetime]
    taken_at: Mapped[datetime | None]
    answer: Mapped[str | None]  # JSON, or an error's
    picture: Mapped[bytes | None] = mapped_column(LargeBinary)

    __table_args__ = (
        CheckConstraint("octet_length(picture) <= 16777216", name="picture"),
        Index(None, "worker_id"),
        {"prefixes": ["UNLOGGED"]},
    )


class KeptStream(Base):
    """Which process keeps a camera's stream open. Lapsed: `expires_at` is in the past."""

    __tablename__ = "kept_streams"

    camera_id: Mapped[str] = mapped_column(primary_key=True)
    worker_id: Mapped[UUID]
    expires_at: Mapped[datetime]

    __table_args__ = ({"prefixes": ["UNLOGGED"]},)
