"""slots whose frames were in a spool: surplus when they come too late, spool_full when they never will"""

from __future__ import annotations

from alembic import op

from repositories.migrations import functions_0003
from repositories.migrations import functions_0007 as functions

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in functions.CREATE_OR_REPLACE:
        op.execute(statement)


def downgrade() -> None:
    for statement in functions.DROP:
        op.execute(statement)
    op.execute(functions_0003.RECORD_SLOTS)
