"""a gap has its camera, by which a camera's gaps are found"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from repositories.migrations import functions

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None
PHASE = "expand"
PASSES = {
    "camera_id": "the trigger gap_camera fills it",
    "ix_capture_gaps_camera_id_from_at_id": "one pass over the table",
    "ix_capture_gaps_camera_until": "one pass over the table",
}


def upgrade() -> None:
    op.add_column("capture_gaps", sa.Column("camera_id", sa.Text(), nullable=True))
    op.execute("UPDATE capture_gaps g SET camera_id = r.camera_id FROM ingestion_requests r WHERE r.id = g.request_id")
    op.alter_column("capture_gaps", "camera_id", nullable=False)
    op.create_index(op.f("ix_capture_gaps_camera_id_from_at_id"), "capture_gaps", ["camera_id", "from_at", "id"])
    until = sa.text("coalesce(to_at, 'infinity'::timestamptz)")
    op.create_index("ix_capture_gaps_camera_until", "capture_gaps", ["camera_id", until])
    functions.create("gap_camera")


def downgrade() -> None:
    functions.drop("gap_camera")
    op.drop_column("capture_gaps", "camera_id")
