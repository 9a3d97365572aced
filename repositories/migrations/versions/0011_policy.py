"""leases say how long they are; whose the database is; how long frames are kept; orphans by folder and day"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from repositories.migrations import functions

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
PHASE = "expand"

_SPANS = {"capture_leases": "ttl", "idempotency_keys": "lease"}


def upgrade() -> None:
    for table, column in _SPANS.items():
        # Of rows that are there: the longest that the settings allow.
        op.add_column(table, sa.Column(column, sa.Float(precision=53), server_default=sa.text("300"), nullable=False))
        op.create_check_constraint(op.f(f"ck_{table}_{column}"), table, f"{column} > 0")
    op.add_column(
        "sweeper_state",
        sa.Column("places", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
    )
    op.create_table(
        "retention_policy",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("days", sa.Float(precision=53), nullable=True),
        sa.Column("max_bytes", sa.BigInteger(), nullable=True),
        sa.Column("max_share_per_day", sa.Float(precision=53), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_retention_policy_one_row")),
        sa.CheckConstraint("days > 0 AND max_bytes > 0", name=op.f("ck_retention_policy_limits")),
        sa.CheckConstraint("max_share_per_day > 0 AND max_share_per_day <= 1", name=op.f("ck_retention_policy_share")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retention_policy")),
    )
    op.create_table(
        "retention_tallies",
        sa.Column("camera_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("frames", sa.BigInteger(), nullable=False),
        sa.Column("deleted", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("capped", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint("frames >= 0 AND deleted >= 0", name=op.f("ck_retention_tallies_counts")),
        sa.PrimaryKeyConstraint("camera_id", name=op.f("pk_retention_tallies")),
    )
    op.add_column("deleted_cameras", sa.Column("retention_days", sa.Float(precision=53), nullable=True))
    functions.create("database_identity")


def downgrade() -> None:
    functions.drop("database_identity")
    op.drop_column("deleted_cameras", "retention_days")
    op.drop_table("retention_tallies")
    op.drop_table("retention_policy")
    op.drop_column("sweeper_state", "places")
    for table, column in _SPANS.items():
        op.drop_constraint(op.f(f"ck_{table}_{column}"), table)
        op.drop_column(table, column)
