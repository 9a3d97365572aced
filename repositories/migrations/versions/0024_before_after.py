"""lists by subject, session and phase; a frame's meta tells where its registered camera stands

The indexes hold rows that have the key only: on a table without such rows they are made by one pass over it (2 s for a
million frames), and are empty.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from repositories.migrations import functions

revision = "0024"
down_revision = "0021"
branch_labels = None
depends_on = None
PHASE = "expand"
PASSES = {
    "ix_frames_meta_subject": "one pass over a table without such rows",
    "ix_frames_meta_session": "one pass over a table without such rows",
    "ix_frames_meta_phase": "one pass over a table without such rows",
    "ix_ingestion_requests_meta_subject": "one pass over a table without such rows",
    "ix_ingestion_requests_meta_session": "one pass over a table without such rows",
    "ix_ingestion_requests_meta_phase": "one pass over a table without such rows",
}

_TABLES = {"frames": ("capture_timestamp", " AND state = 'stored'"), "ingestion_requests": ("created_at", "")}
_KEYS = ("subject", "session", "phase")


def upgrade() -> None:
    for table, (at, stored) in _TABLES.items():
        for key in _KEYS:
            head = f"left(meta ->> '{key}', 100)"
            there = sa.text(f"{head} IS NOT NULL{stored}")
            op.create_index(f"ix_{table}_meta_{key}", table, [sa.text(head), at, "id"], postgresql_where=there)
    functions.create("record_slots")


def downgrade() -> None:
    for table in _TABLES:
        for key in _KEYS:
            op.drop_index(f"ix_{table}_meta_{key}", table)
