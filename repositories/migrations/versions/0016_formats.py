"""HEIC, WebP and AVIF; a camera's time zone for EXIF times"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None
PHASE = "expand"
PASSES = {
    "ck_frames_format": "it lets through more than before",
}

_NAME = "ck_frames_format"


def upgrade() -> None:
    op.drop_constraint(op.f(_NAME), "frames", type_="check")
    op.create_check_constraint(op.f(_NAME), "frames", "format IN ('jpg', 'png', 'bmp', 'tiff', 'heic', 'webp', 'avif')")
    op.add_column("camera_configurations", sa.Column("exif_timezone", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("camera_configurations", "exif_timezone")
    op.drop_constraint(op.f(_NAME), "frames", type_="check")
    op.create_check_constraint(op.f(_NAME), "frames", "format IN ('jpg', 'png', 'bmp', 'tiff')")
