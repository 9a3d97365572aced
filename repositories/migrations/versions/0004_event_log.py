"""the identity of this database's event log, which its bucket's marker object carries too"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
PHASE = "expand"


def upgrade() -> None:
    op.create_table(
        "event_log",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("log_id", sa.UUID(), nullable=False),
        sa.Column("seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_event_log_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event_log")),
    )
    op.execute("INSERT INTO event_log (id, log_id) VALUES (1, gen_random_uuid())")


def downgrade() -> None:
    op.drop_table("event_log")
