"""direct uploads: sessions whose file comes to a staging key of the object store"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
PHASE = "expand"


def upgrade() -> None:
    op.create_table(
        "upload_sessions",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("request_id", sa.UUID(), nullable=False),
        sa.Column("camera_id", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("meta", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("part_size", sa.BigInteger(), nullable=True),
        sa.Column("upload_id", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default=sa.text("'open'"), nullable=False),
        sa.Column("error", postgresql.JSONB(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("busy_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("arrived_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cleared_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('open', 'completed', 'failed', 'aborted', 'expired')", name=op.f("ck_upload_sessions_state")
        ),
        sa.CheckConstraint("size_bytes > 0 AND (part_size IS NULL OR part_size > 0)", name=op.f("ck_upload_sessions_sizes")),
        sa.CheckConstraint("sha256 IS NULL OR sha256 ~ '^[0-9a-f]{64}$'", name=op.f("ck_upload_sessions_sha256")),
        sa.CheckConstraint("(state = 'open') = (ended_at IS NULL)", name=op.f("ck_upload_sessions_ended")),
        sa.CheckConstraint("(state = 'failed') = (error IS NOT NULL)", name=op.f("ck_upload_sessions_error_of_failed")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload_sessions")),
        sa.UniqueConstraint("request_id", name=op.f("uq_upload_sessions_request_id")),
    )
    where = {
        "open": ("expires_at", "state = 'open'"),
        "uncleared": ("ended_at", "state <> 'open' AND cleared_at IS NULL"),
        "cleared": ("ended_at", "cleared_at IS NOT NULL"),
    }
    for name, (column, condition) in where.items():
        op.create_index(f"ix_upload_sessions_{name}", "upload_sessions", [column, "id"], postgresql_where=sa.text(condition))


def downgrade() -> None:
    op.drop_table("upload_sessions")
