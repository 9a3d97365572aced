"""access control: keys, browser sessions, an append-only audit, owners of requests and upload sessions"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from repositories.migrations import functions

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
PHASE = "contract"
SAFE_FROM = "0.1.0"

_TEXTS = postgresql.ARRAY(sa.Text())
_PENDING = sa.text("status = 'pending' AND owner IS NOT NULL")


def _time(name: str, *, nullable: bool = True, default: str | None = None) -> sa.Column[object]:
    return sa.Column(
        name, sa.DateTime(timezone=True), nullable=nullable, server_default=sa.text(default) if default else None
    )


def upgrade() -> None:
    op.drop_table("api_keys")  # nothing has used it
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.Text(), nullable=False),
        sa.Column("previous_hash", sa.Text(), nullable=True),
        _time("previous_until"),
        sa.Column("scopes", _TEXTS, nullable=False),
        sa.Column("cameras", _TEXTS, nullable=True),
        _time("created_at", nullable=False, default="now()"),
        _time("expires_at"),
        _time("last_used_at"),
        _time("revoked_at"),
        sa.CheckConstraint("key_id ~ '^[0-9A-Za-z]{12}$'", name=op.f("ck_api_keys_key_id")),
        sa.CheckConstraint("(previous_hash IS NULL) = (previous_until IS NULL)", name=op.f("ck_api_keys_previous")),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_keys")),
    )
    op.create_index(op.f("ix_api_keys_created_at_key_id"), "api_keys", ["created_at", "key_id"])
    op.create_table(
        "browser_sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.Text(), nullable=True),
        sa.Column("scopes", _TEXTS, nullable=False),
        sa.Column("cameras", _TEXTS, nullable=True),
        _time("created_at", nullable=False, default="now()"),
        _time("expires_at", nullable=False),
        sa.CheckConstraint("kind IN ('key', 'bootstrap', 'jwt')", name=op.f("ck_browser_sessions_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_browser_sessions")),
    )
    op.create_index(op.f("ix_browser_sessions_expires_at"), "browser_sessions", ["expires_at"])
    op.create_table(
        "access_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("cursor_key", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_access_state_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_state")),
    )
    # Two random UUIDs are 244 random bits.
    op.execute(
        "INSERT INTO access_state (id, cursor_key) VALUES"
        " (1, sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')))"
    )
    op.create_table(
        "deleted_cameras",
        sa.Column("camera_id", sa.Text(), nullable=False),
        _time("deleted_at", nullable=False, default="now()"),
        sa.PrimaryKeyConstraint("camera_id", name=op.f("pk_deleted_cameras")),
    )
    op.drop_index(op.f("ix_audit_at"), table_name="audit")
    op.alter_column("audit", "caller", new_column_name="subject")
    op.add_column("audit", sa.Column("entry", sa.UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False))
    for name in ("kind", "address", "trace_id"):
        op.add_column("audit", sa.Column(name, sa.Text(), nullable=True))
    op.add_column("audit", sa.Column("status", sa.Integer(), nullable=True))
    op.add_column("audit", _time("keep_until", nullable=False, default="(now() + '365 days'::interval)"))
    op.create_index(op.f("ix_audit_at_entry"), "audit", ["at", "entry"])
    op.create_index(op.f("ix_audit_keep_until"), "audit", ["keep_until"])
    op.create_index("uq_audit_entry", "audit", ["entry"], unique=True)
    op.add_column("ingestion_requests", sa.Column("owner", sa.Text(), nullable=True))
    op.create_index("ix_ingestion_requests_pending_owner", "ingestion_requests", ["owner"], postgresql_where=_PENDING)
    op.add_column("upload_sessions", sa.Column("owner", sa.Text(), nullable=True))
    functions.create("report_access", "keep_audit")


def downgrade() -> None:
    functions.drop("keep_audit", "report_access")
    op.drop_column("upload_sessions", "owner")
    op.drop_index("ix_ingestion_requests_pending_owner", table_name="ingestion_requests")
    op.drop_column("ingestion_requests", "owner")
    op.drop_index("uq_audit_entry", table_name="audit")
    op.drop_index(op.f("ix_audit_keep_until"), table_name="audit")
    op.drop_index(op.f("ix_audit_at_entry"), table_name="audit")
    for name in ("keep_until", "status", "trace_id", "address", "kind", "entry"):
        op.drop_column("audit", name)
    op.alter_column("audit", "subject", new_column_name="caller")
    op.create_index(op.f("ix_audit_at"), "audit", ["at"])
    op.drop_table("deleted_cameras")
    op.drop_table("access_state")
    op.drop_table("browser_sessions")
    op.drop_table("api_keys")
    op.create_table(
        "api_keys",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("cameras", postgresql.JSONB(), nullable=True),
        _time("created_at", nullable=False, default="now()"),
        _time("expires_at"),
        _time("revoked_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_api_keys_key_hash")),
    )
