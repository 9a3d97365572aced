"""the processes of a deployment, and the site of a camera, whose workers capture it"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0021"
down_revision = "0018"
branch_labels = None
depends_on = None
PHASE = "expand"

_SITE = "site ~ '^[a-z0-9-]{1,40}$'"


def upgrade() -> None:
    op.add_column("camera_configurations", sa.Column("site", sa.Text(), nullable=False, server_default=sa.text("'default'")))
    op.create_check_constraint(op.f("ck_camera_configurations_site"), "camera_configurations", _SITE)
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("captures", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("streams", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("draining", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("joined", sa.Boolean(), nullable=False, server_default=sa.text("true")),
        sa.Column("lease_ttl", sa.Float(53), nullable=False),
        sa.Column("cameras", postgresql.JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.CheckConstraint("role IN ('all', 'api', 'worker')", name=op.f("ck_workers_role")),
        sa.CheckConstraint(_SITE, name=op.f("ck_workers_site")),
        sa.CheckConstraint("captures >= 0 AND streams >= 0", name=op.f("ck_workers_counts")),
        sa.PrimaryKeyConstraint("worker_id", name=op.f("pk_workers")),
        prefixes=["UNLOGGED"],
    )
    op.create_index(op.f("ix_workers_seen_at"), "workers", ["seen_at"])
    op.create_table(
        "worker_calls",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("worker_id", sa.Uuid(), nullable=False),
        sa.Column("caller", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("picture", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint("octet_length(picture) <= 16777216", name=op.f("ck_worker_calls_picture")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker_calls")),
        prefixes=["UNLOGGED"],
    )
    op.create_index(op.f("ix_worker_calls_worker_id"), "worker_calls", ["worker_id"])
    op.execute("ALTER TABLE worker_calls ALTER COLUMN picture SET STORAGE EXTERNAL")  # JPEGs do not get smaller
    op.create_table(
        "kept_streams",
        sa.Column("camera_id", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Uuid(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("camera_id", name=op.f("pk_kept_streams")),
        prefixes=["UNLOGGED"],
    )


def downgrade() -> None:
    op.drop_table("kept_streams")
    op.drop_table("worker_calls")
    op.drop_table("workers")
    op.drop_column("camera_configurations", "site")
