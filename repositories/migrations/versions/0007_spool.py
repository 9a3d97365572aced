"""slots whose frames were in a spool: surplus when they come too late, spool_full when they never will"""

from __future__ import annotations

from repositories.migrations import functions

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
PHASE = "expand"


def upgrade() -> None:
    functions.create("record_slots", "abandon_slots")


def downgrade() -> None:
    functions.drop("abandon_slots")
