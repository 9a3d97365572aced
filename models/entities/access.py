"""Who may call, and who did what."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, Integer, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.entities.base import Base, Json, created_now, one_of


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
    created_at: Mapped[datetime] = created_now()
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
    created_at: Mapped[datetime] = created_now()
    expires_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint(one_of("kind", ("key", "bootstrap", "jwt")), name="kind"),
        Index(None, "expires_at"),
    )


class WsTicket(Base):
    """A ticket with which a browser opens the WebSocket, once. `id`: SHA-256 of the ticket.

    `kind`: of the credential that asked for it. Keys and browser sessions are looked up again, by `secret_hash` and
    `session_id`: the socket ends with them. Scopes, cameras and `credential_until` are a JWT's.
    """

    __tablename__ = "ws_tickets"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    subject: Mapped[str]
    secret_hash: Mapped[str | None]
    session_id: Mapped[str | None]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    cameras: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    credential_until: Mapped[datetime | None]
    expires_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint(one_of("kind", ("key", "bootstrap", "jwt", "session")), name="kind"),
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
    deleted_at: Mapped[datetime] = created_now()
    retention_days: Mapped[float | None]  # the camera's: its frames are kept as long as before


class Audit(Base):
    """Who did what. A trigger refuses changes, and removal before `keep_until`."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    entry: Mapped[UUID] = mapped_column(server_default=func.gen_random_uuid())
    at: Mapped[datetime] = created_now()
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
