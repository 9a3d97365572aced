"""The processes of a deployment, as each one says of itself."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Boolean, CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.entities.base import Base, created_now, one_of

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

    __table_args__ = (
        CheckConstraint(one_of("role", ("all", "api", "worker")), name="role"),
        CheckConstraint(SITE_CHECK, name="site"),
        CheckConstraint("captures >= 0 AND streams >= 0", name="counts"),
        Index(None, "seen_at"),
        {"prefixes": ["UNLOGGED"]},
    )
