"""an upload is stored by one function; slots are counted without an executor"""

from __future__ import annotations

from repositories.migrations import functions

revision = "0020"
down_revision = "0022"
branch_labels = None
depends_on = None
PHASE = "expand"


def upgrade() -> None:
    functions.create("slot_count", "store_upload")


def downgrade() -> None:
    functions.drop("store_upload")
