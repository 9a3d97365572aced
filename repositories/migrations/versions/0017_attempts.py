"""a lease counts the owners that died over its capture"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from repositories.migrations import functions

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None
PHASE = "expand"


def upgrade() -> None:
    op.add_column("capture_leases", sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("capture_leases", sa.Column("mark", sa.Text(), nullable=False, server_default="0 "))
    op.add_column(
        "capture_leases",
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
    )
    op.create_check_constraint(op.f("ck_capture_leases_attempts"), "capture_leases", "attempts >= 0")
    functions.create("lease_mark")


def downgrade() -> None:
    functions.drop("lease_mark")
    op.drop_constraint(op.f("ck_capture_leases_attempts"), "capture_leases", type_="check")
    for column in ("claimed_at", "mark", "attempts"):
        op.drop_column("capture_leases", column)
