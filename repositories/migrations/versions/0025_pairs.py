"""pairs of frames, before and after"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from repositories.migrations import functions

revision = "0025"
down_revision = "0020"
branch_labels = None
depends_on = None
PHASE = "expand"


def _index(name: str, *columns: str, where: str | None = None) -> None:
    texts = [sa.text(column) if "(" in column else column for column in columns]
    op.create_index(f"ix_pairs_{name}", "pairs", texts, postgresql_where=sa.text(where) if where else None)


def upgrade() -> None:
    json = postgresql.JSONB(astext_type=sa.Text())
    time = sa.DateTime(timezone=True)
    op.create_table(
        "pairs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("before_id", sa.Uuid(), nullable=False),
        sa.Column("after_id", sa.Uuid(), nullable=False),
        sa.Column("before_camera", sa.Text(), nullable=False),
        sa.Column("after_camera", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("session", sa.Text(), nullable=True),
        sa.Column("meta", json, nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("alignment", json, nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("leased_until", time, nullable=True),
        sa.Column("created_at", time, nullable=False, server_default=sa.text("now()")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pairs")),
        sa.ForeignKeyConstraint(["before_id"], ["frames.id"], name=op.f("fk_pairs_before_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["after_id"], ["frames.id"], name=op.f("fk_pairs_after_id"), ondelete="CASCADE"),
        sa.CheckConstraint("before_id <> after_id", name=op.f("ck_pairs_two")),
        sa.CheckConstraint("status IN ('aligned', 'same_size', 'failed', 'pending', 'off')", name=op.f("ck_pairs_status")),
    )
    whole: list[str | sa.TextClause] = ["before_id", "after_id", sa.text("coalesce(label, '')")]
    op.create_index("uq_pairs_frames_label", "pairs", whole, unique=True)
    _index("after_id", "after_id")
    _index("created_at_id", "created_at", "id")
    _index("before_camera_created_at_id", "before_camera", "created_at", "id")
    _index("after_camera_created_at_id", "after_camera", "created_at", "id")
    _index("label", "label", "created_at", "id", where="label IS NOT NULL")
    _index("subject", "subject", "created_at", "id", where="subject IS NOT NULL")
    _index("session", "left(session, 100)", "created_at", "id", where="session IS NOT NULL")
    _index("pending", "created_at", "id", where="status = 'pending'")
    functions.create("report_pair")


def downgrade() -> None:
    op.drop_table("pairs")
    functions.drop("report_pair")
