"""events, written by triggers and put in order by a relay"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from repositories.migrations import functions

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
PHASE = "expand"

_FUNCTIONS = (
    "wire_time", "report_frame_stored", "report_frame_deleted", "report_request", "report_gap", "relay_events", "expire_events",
)  # fmt: skip
# A queue's dead rows lie where its next reader begins: they are to go long before a share of the table is dead.
_VACUUM = "autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=5000"


def upgrade() -> None:
    # Events are read in their order only, and removed from the beginning of it.
    op.drop_index(op.f("ix_events_created_at"), table_name="events")
    op.drop_index(op.f("ix_events_type_seq"), table_name="events")
    op.add_column("event_log", sa.Column("oldest", sa.BigInteger(), server_default=sa.text("1"), nullable=False))
    op.execute(f"ALTER TABLE outbox_pending SET ({_VACUUM})")
    functions.create(*_FUNCTIONS)


def downgrade() -> None:
    functions.drop(*_FUNCTIONS)
    op.execute("ALTER TABLE outbox_pending RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold)")
    op.drop_column("event_log", "oldest")
    op.create_index(op.f("ix_events_type_seq"), "events", ["type", "seq"])
    op.create_index(op.f("ix_events_created_at"), "events", ["created_at"])
