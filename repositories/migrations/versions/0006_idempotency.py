"""safe retries: who runs a key, whether anything was begun under it, and the answer as it was given"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
PHASE = "contract"
SAFE_FROM = "0.1.0"


def upgrade() -> None:
    op.execute("DELETE FROM idempotency_keys")  # no release has ever written one
    op.add_column("idempotency_keys", sa.Column("run", sa.UUID(), nullable=False))
    op.add_column("idempotency_keys", sa.Column("begun", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("idempotency_keys", sa.Column("location", sa.Text(), nullable=True))
    op.alter_column("idempotency_keys", "answer", type_=sa.JSON(), postgresql_using="answer::json")


def downgrade() -> None:
    op.execute("DELETE FROM idempotency_keys")  # an answer may hold what jsonb does not take; keys are for a day only
    op.alter_column(
        "idempotency_keys", "answer", type_=postgresql.JSONB(astext_type=sa.Text()), postgresql_using="answer::jsonb"
    )
    op.drop_column("idempotency_keys", "location")
    op.drop_column("idempotency_keys", "begun")
    op.drop_column("idempotency_keys", "run")
