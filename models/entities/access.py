"""Who may call, and who did what."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Identity, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.entities.base import Base, Json, created_now


class ApiKey(Base):
    """Who may call: only a hash of the key is kept."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    key_hash: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[list[Json]] = mapped_column(server_default=text("'[]'::jsonb"))
    cameras: Mapped[list[Json] | None]
    created_at: Mapped[datetime] = created_now()
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Audit(Base):
    """Who did what."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = created_now()
    caller: Mapped[str | None]
    action: Mapped[str]
    target: Mapped[str | None]
    details: Mapped[Json | None]

    __table_args__ = (Index(None, "at"),)
