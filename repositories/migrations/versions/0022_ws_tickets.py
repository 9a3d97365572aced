"""tickets with which a browser opens the WebSocket: once, for 30 s, only their hashes"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0022"
down_revision = "0024"
branch_labels = None
depends_on = None
PHASE = "expand"

_TEXTS = postgresql.ARRAY(sa.Text())


def upgrade() -> None:
    op.create_table(
        "ws_tickets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.Text(), nullable=True),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("scopes", _TEXTS, nullable=False),
        sa.Column("cameras", _TEXTS, nullable=True),
        sa.Column("credential_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('key', 'bootstrap', 'jwt', 'session')", name=op.f("ck_ws_tickets_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ws_tickets")),
    )
    op.create_index(op.f("ix_ws_tickets_expires_at"), "ws_tickets", ["expires_at"])


def downgrade() -> None:
    op.drop_table("ws_tickets")
