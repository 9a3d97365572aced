"""camera URLs rest encrypted: indexes of the rows that do not yet, and the readers that a camera may name"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
PHASE = "expand"
PASSES = {
    "ck_camera_configurations_reader": "it lets through more than before",
    "ix_ingestion_requests_plain_url": "one pass over the table",
}

_PLAIN = sa.text("rtsp_url NOT LIKE 'enc1:%'")


def upgrade() -> None:
    # The service encrypts what these find, at every start (services.housekeeping.secrets): a migration has no keys.
    op.create_index("ix_ingestion_requests_plain_url", "ingestion_requests", ["id"], postgresql_where=_PLAIN)
    op.create_index("ix_camera_configurations_plain_url", "camera_configurations", ["camera_id"], postgresql_where=_PLAIN)
    op.create_check_constraint(
        op.f("ck_camera_configurations_reader"),
        "camera_configurations",
        "reader IS NULL OR reader IN ('opencv', 'pyav')",
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_camera_configurations_reader"), "camera_configurations", type_="check")
    op.drop_index("ix_camera_configurations_plain_url", table_name="camera_configurations")
    op.drop_index("ix_ingestion_requests_plain_url", table_name="ingestion_requests")
