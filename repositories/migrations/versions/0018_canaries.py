"""a canary per encryption key: a process with other keys recognises by it that it can open nothing"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None
PHASE = "expand"


def upgrade() -> None:
    op.create_table(
        "secret_canaries",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("canary", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_secret_canaries")),
    )
    # Keys in use before there were canaries: that a process has them is known by their ids.
    op.execute("""
        INSERT INTO secret_canaries (key_id)
        SELECT DISTINCT split_part(rtsp_url, ':', 2) FROM (
            SELECT rtsp_url FROM camera_configurations
            UNION ALL SELECT rtsp_url FROM ingestion_requests WHERE status IN ('pending', 'in_progress')
        ) AS sealed WHERE rtsp_url LIKE 'enc1:%'
    """)


def downgrade() -> None:
    op.drop_table("secret_canaries")
