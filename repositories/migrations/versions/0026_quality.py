"""the quality of frames, and what each camera's frames are judged by; a frame's row is inserted in one place

The index holds frames that are not good: on a table without such rows it is made by one pass over it, and is empty.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from repositories.migrations import functions

revision = "0026"
down_revision = "0028"
branch_labels = None
depends_on = None
PHASE = "expand"
PASSES = {
    "ix_frames_poor": "one pass over a table without such rows",
    "ix_frames_camera_poor": "one pass over a table without such rows",
}

_POOR = "state = 'stored' AND quality ->> 'verdict' IN ('suspect', 'bad')"
_VERDICT = sa.text("(quality ->> 'verdict')")


def upgrade() -> None:
    json = postgresql.JSONB(astext_type=sa.Text())
    time = sa.DateTime(timezone=True)
    op.add_column("frames", sa.Column("quality", json, nullable=True))
    at = ["capture_timestamp", "id"]
    op.create_index("ix_frames_poor", "frames", [_VERDICT, *at], postgresql_where=sa.text(_POOR))
    op.create_index("ix_frames_camera_poor", "frames", ["camera_id", _VERDICT, *at], postgresql_where=sa.text(_POOR))
    op.create_table(
        "camera_quality",
        sa.Column("camera_id", sa.Text(), nullable=False),
        sa.Column("source_type", sa.Text(), nullable=False),
        sa.Column("baseline", json, nullable=False),
        sa.Column("scene", sa.LargeBinary(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=False, server_default=sa.text("'good'")),
        sa.Column("reasons", json, nullable=False, server_default=sa.text("'[]'::jsonb")),
        sa.Column("streak", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("since", time, nullable=True),
        sa.Column("updated_at", time, nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("camera_id", "source_type", name=op.f("pk_camera_quality")),
        sa.CheckConstraint("source_type IN ('rtsp', 'upload')", name=op.f("ck_camera_quality_source_type")),
        sa.CheckConstraint("verdict IN ('good', 'bad')", name=op.f("ck_camera_quality_verdict")),
        sa.CheckConstraint("octet_length(scene) <= 65536", name=op.f("ck_camera_quality_scene")),
    )
    op.create_index(op.f("ix_camera_quality_updated_at"), "camera_quality", ["updated_at"])
    functions.create("insert_frame", "record_slots", "store_upload", "report_frame_stored", "report_quality")


def downgrade() -> None:
    op.drop_table("camera_quality")
    functions.drop("report_quality", "insert_frame")
    op.drop_index("ix_frames_camera_poor", "frames")
    op.drop_index("ix_frames_poor", "frames")
    op.drop_column("frames", "quality")
