"""shares: whose captures wait, and who keeps a camera's stream open"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None
PHASE = "expand"


def upgrade() -> None:
    op.add_column("capture_leases", sa.Column("principal", sa.Text(), nullable=True))
    op.execute("UPDATE capture_leases l SET principal = r.owner FROM ingestion_requests r WHERE r.id = l.request_id")
    op.add_column("camera_configurations", sa.Column("kept_by", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("camera_configurations", "kept_by")
    op.drop_column("capture_leases", "principal")
