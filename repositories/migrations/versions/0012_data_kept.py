"""deleted frames are blanked, their events too; idempotency keys name their owner"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from repositories.migrations import functions

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
PHASE = "expand"
PASSES = {
    "ix_idempotency_keys_owner_created_at": "one pass over the table",
    "ix_events_frame_stored": "one pass over the table",
}

_BLANK = """'{"filename": null, "exif": null, "meta": {}}'"""


def upgrade() -> None:
    op.add_column("idempotency_keys", sa.Column("owner", sa.Text(), nullable=True))
    op.create_index(op.f("ix_idempotency_keys_owner_created_at"), "idempotency_keys", ["owner", "created_at"])
    op.create_index(
        "ix_events_frame_stored",
        "events",
        [sa.text("(event ->> 'subject')")],
        postgresql_where=sa.text("type = 'frame.stored'"),
    )
    # What was deleted before: as the triggers below do it from now on.
    op.execute(f"""
        UPDATE events e SET event = jsonb_set(e.event, '{{data}}', (e.event -> 'data') || {_BLANK})
        FROM frames f WHERE f.state <> 'stored' AND e.type = 'frame.stored' AND e.event ->> 'subject' = f.id::text
    """)
    op.execute(f"""
        UPDATE outbox_pending p SET event = jsonb_set(p.event, '{{data}}', (p.event -> 'data') || {_BLANK})
        FROM frames f
        WHERE f.state <> 'stored' AND p.event ->> 'type' = 'frame.stored' AND p.event ->> 'subject' = f.id::text
    """)
    op.execute("""
        UPDATE upload_sessions s SET filename = '', meta = '{}'
        FROM frames f WHERE f.state <> 'stored' AND s.request_id = f.request_id
    """)
    op.execute("""
        UPDATE frames SET filename = NULL, exif = NULL, meta = '{}'
        WHERE state <> 'stored' AND (filename IS NOT NULL OR exif IS NOT NULL OR meta <> '{}')
    """)
    functions.create("blank_frame", "blank_copies")


def downgrade() -> None:
    functions.drop("blank_copies", "blank_frame")
    op.drop_index("ix_events_frame_stored", table_name="events")
    op.drop_index(op.f("ix_idempotency_keys_owner_created_at"), table_name="idempotency_keys")
    op.drop_column("idempotency_keys", "owner")
