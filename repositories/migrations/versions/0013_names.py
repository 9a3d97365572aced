"""functions that write events are called report_*"""

from __future__ import annotations

from repositories.migrations import functions

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None
PHASE = "expand"

_NAMES = ("access", "frame_deleted", "frame_stored", "gap", "request")


def upgrade() -> None:
    functions.drop(*(f"tell_{name}" for name in _NAMES))
    functions.create(*(f"report_{name}" for name in _NAMES), "relay_events")


def downgrade() -> None:
    """Nothing: earlier revisions create today's functions."""
