"""the processes of a deployment, and the site of a camera, whose workers capture it"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0018"
branch_labels = None
depends_on = None

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
        sa.CheckConstraint("role IN ('all', 'api', 'worker')", name=op.f("ck_workers_role")),
        sa.CheckConstraint(_SITE, name=op.f("ck_workers_site")),
        sa.CheckConstraint("captures >= 0 AND streams >= 0", name=op.f("ck_workers_counts")),
        sa.PrimaryKeyConstraint("worker_id", name=op.f("pk_workers")),
        prefixes=["UNLOGGED"],
    )
    op.create_index(op.f("ix_workers_seen_at"), "workers", ["seen_at"])


def downgrade() -> None:
    op.drop_table("workers")
    op.drop_column("camera_configurations", "site")
