"""which steps of the schema were made, for code that does not know them; what each process knows of the schema"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0027"
branch_labels = None
depends_on = None
PHASE = "expand"


def upgrade() -> None:
    op.create_table(
        "schema_steps",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("safe_from", sa.Text(), nullable=True),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.CheckConstraint("phase IN ('expand', 'contract')", name=op.f("ck_schema_steps_phase")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_schema_steps")),
        sa.UniqueConstraint("revision", name=op.f("uq_schema_steps_revision")),
    )
    op.add_column("workers", sa.Column("schema_revision", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "schema_revision")
    op.drop_table("schema_steps")
