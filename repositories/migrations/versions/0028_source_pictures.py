"""cameras' own pictures: their formats, what is known of a picture being whole, and how a camera's are stored

A constant default rewrites no row; the rows that told `unknown` in their meta are found by one pass over the table.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from repositories.migrations import functions

revision = "0028"
down_revision = "0025"
branch_labels = None
depends_on = None
PHASE = "expand"
PASSES = {
    "ck_frames_format": "it lets through more than before",
    "ix_frames_undecoded": "one pass over a table without such rows",
}

_FORMAT = "ck_frames_format"
_FORMATS = "'jpg', 'png', 'bmp', 'tiff', 'heic', 'webp', 'avif'"


def upgrade() -> None:
    op.drop_constraint(op.f(_FORMAT), "frames", type_="check")
    op.create_check_constraint(op.f(_FORMAT), "frames", f"format IN ({_FORMATS}, 'h264', 'h265')")
    op.add_column("frames", sa.Column("integrity", sa.Text(), nullable=False, server_default=sa.text("'verified'")))
    op.execute("UPDATE frames SET integrity = 'unknown' WHERE meta ->> 'integrity' = 'unknown'")
    op.create_check_constraint(op.f("ck_frames_integrity"), "frames", "integrity IN ('verified', 'unknown', 'undecoded')")
    op.create_index(
        "ix_frames_undecoded", "frames", ["stored_at", "id"],
        postgresql_where=sa.text("state = 'stored' AND integrity = 'undecoded'"),
    )  # fmt: skip
    op.add_column(
        "camera_configurations", sa.Column("encoding", sa.Text(), nullable=False, server_default=sa.text("'jpeg'"))
    )
    op.create_check_constraint(
        op.f("ck_camera_configurations_encoding"), "camera_configurations", "encoding IN ('jpeg', 'source')"
    )
    functions.create("record_slots")


def downgrade() -> None:
    op.drop_column("camera_configurations", "encoding")
    op.drop_column("frames", "integrity")
    op.drop_constraint(op.f(_FORMAT), "frames", type_="check")
    op.create_check_constraint(op.f(_FORMAT), "frames", f"format IN ({_FORMATS})")
