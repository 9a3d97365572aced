"""the reader `native` takes the place of `pyav`; frames stamped by the camera's time in each RTP packet"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None
PHASE = "expand"
PASSES = {
    "ck_camera_configurations_reader": "it lets through more than before",
    "ck_frames_timestamp_source": "it lets through more than before",
}

_READER = "ck_camera_configurations_reader"
_SOURCE = "ck_frames_timestamp_source"


def _set(reader: str, sources: str) -> None:
    op.drop_constraint(op.f(_READER), "camera_configurations", type_="check")
    op.execute(f"UPDATE camera_configurations SET reader = '{reader}' WHERE reader IS NOT NULL AND reader <> 'opencv'")
    op.create_check_constraint(op.f(_READER), "camera_configurations", f"reader IS NULL OR reader IN ('opencv', '{reader}')")
    op.drop_constraint(op.f(_SOURCE), "frames", type_="check")
    op.create_check_constraint(op.f(_SOURCE), "frames", f"timestamp_source IN ({sources})")


def upgrade() -> None:
    _set("native", "'rtp', 'rtcp', 'receipt', 'exif', 'client', 'upload'")


def downgrade() -> None:
    op.execute("UPDATE frames SET timestamp_source = 'rtcp' WHERE timestamp_source = 'rtp'")
    _set("pyav", "'rtcp', 'receipt', 'exif', 'client', 'upload'")
