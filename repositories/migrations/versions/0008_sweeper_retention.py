"""sweeper and retention: holds, how far the sweeper has come, what it found, how much is stored"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from repositories.migrations import functions

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
PHASE = "contract"
SAFE_FROM = "0.1.0"

_STORED = sa.text("state = 'stored'")
_KEPT = sa.text("state <> 'deleted'")
_ONE_ROW = "id = 1"


def upgrade() -> None:
    # The sweeper walks rows and listing side by side: both in the order of bytes.
    op.drop_constraint(op.f("uq_frames_storage_path"), "frames", type_="unique")
    op.execute('ALTER TABLE frames ALTER COLUMN storage_path TYPE text COLLATE "C"')
    op.create_index("uq_frames_storage_path", "frames", ["storage_path"], unique=True, postgresql_where=_KEPT)
    op.execute('ALTER TABLE object_keys ALTER COLUMN key TYPE text COLLATE "C"')
    op.create_index("ix_object_keys_condemned", "object_keys", ["at"], postgresql_where=sa.text("state = 'condemned'"))
    op.add_column("frames", sa.Column("held_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("frames", sa.Column("hold_reason", sa.Text(), nullable=True))
    op.create_check_constraint(op.f("ck_frames_hold"), "frames", "hold_reason IS NULL OR held_at IS NOT NULL")
    op.drop_index(op.f("ix_frames_stored_at_id"), table_name="frames")
    op.create_index(op.f("ix_frames_stored_at_id"), "frames", ["stored_at", "id"], postgresql_where=_STORED)
    op.create_index(
        op.f("ix_frames_camera_id_stored_at_id"), "frames", ["camera_id", "stored_at", "id"], postgresql_where=_STORED
    )
    op.add_column("camera_configurations", sa.Column("retention_days", sa.Float(precision=53), nullable=True))
    op.create_check_constraint(
        op.f("ck_camera_configurations_retention_days"),
        "camera_configurations",
        "retention_days IS NULL OR retention_days > 0",
    )
    op.create_table(
        "integrity_violations",
        sa.Column("frame_id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("found_bytes", sa.BigInteger(), nullable=True),
        sa.Column("found_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('missing', 'size')", name=op.f("ck_integrity_violations_kind")),
        sa.ForeignKeyConstraint(
            ["frame_id"], ["frames.id"], name=op.f("fk_integrity_violations_frame_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("frame_id", name=op.f("pk_integrity_violations")),
    )
    op.create_table(
        "sweeper_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("cursor", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("seen", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("orphans", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("stopped", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(_ONE_ROW, name=op.f("ck_sweeper_state_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeper_state")),
    )
    op.execute("INSERT INTO sweeper_state (id) VALUES (1)")
    op.create_table(
        "storage_usage",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("frames", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint(_ONE_ROW, name=op.f("ck_storage_usage_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_storage_usage")),
    )
    op.create_table(
        "storage_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("frames", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_storage_changes")),
    )
    # The trigger locks the table against writers until the commit: what is summed up after it is all there is.
    functions.create("note_usage")
    op.execute(
        "INSERT INTO storage_usage (id, bytes, frames) "
        "SELECT 1, coalesce(sum(size_bytes), 0), count(*) FROM frames WHERE state = 'stored'"
    )


def downgrade() -> None:
    functions.drop("note_usage")
    for table in ("storage_changes", "storage_usage", "sweeper_state", "integrity_violations"):
        op.drop_table(table)
    op.drop_constraint(op.f("ck_camera_configurations_retention_days"), "camera_configurations", type_="check")
    op.drop_column("camera_configurations", "retention_days")
    op.drop_index(op.f("ix_frames_camera_id_stored_at_id"), table_name="frames", postgresql_where=_STORED)
    op.drop_index(op.f("ix_frames_stored_at_id"), table_name="frames", postgresql_where=_STORED)
    op.create_index(op.f("ix_frames_stored_at_id"), "frames", ["stored_at", "id"])
    op.drop_constraint(op.f("ck_frames_hold"), "frames", type_="check")
    op.drop_column("frames", "hold_reason")
    op.drop_column("frames", "held_at")
    op.drop_index("ix_object_keys_condemned", table_name="object_keys")
    op.execute('ALTER TABLE object_keys ALTER COLUMN key TYPE text COLLATE "default"')
    op.drop_index("uq_frames_storage_path", table_name="frames", postgresql_where=_KEPT)
    op.execute('ALTER TABLE frames ALTER COLUMN storage_path TYPE text COLLATE "default"')
    op.create_unique_constraint(op.f("uq_frames_storage_path"), "frames", ["storage_path"])
