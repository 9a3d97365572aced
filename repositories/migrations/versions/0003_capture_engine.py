"""the capture engine: events and their idle slots, the camera's own time, groups of requests"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from repositories.migrations import functions

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
PHASE = "expand"
PASSES = {
    "ix_ingestion_requests_group_id": "one pass over the table",
}

_REASONS = (
    "camera_down", "no_picture", "decode_failed", "queue_full", "spool_full",
    "spooled", "surplus", "lease_lost", "cancelled", "rejected",
)  # fmt: skip
_GROUPED = sa.text("group_id IS NOT NULL")
_DROPPED = " - ".join(f"slot_count(dropped_{reason})" for reason in _REASONS)


def _ledger(in_flight: str) -> None:
    """Makes `in_flight` anew: PostgreSQL 15 cannot change what a column is generated from."""
    op.drop_constraint(op.f("ck_ingestion_requests_ledger"), "ingestion_requests", type_="check")
    op.drop_constraint(op.f("ck_ingestion_requests_final_is_settled"), "ingestion_requests", type_="check")
    op.drop_column("ingestion_requests", "in_flight")
    op.add_column(
        "ingestion_requests", sa.Column("in_flight", sa.Integer(), sa.Computed(in_flight, persisted=True), nullable=False)
    )
    op.create_check_constraint(op.f("ck_ingestion_requests_ledger"), "ingestion_requests", "in_flight >= 0")
    op.create_check_constraint(
        op.f("ck_ingestion_requests_final_is_settled"),
        "ingestion_requests",
        "status NOT IN ('completed', 'failed', 'cancelled') OR (in_flight = 0 AND completed_at IS NOT NULL)",
    )


def upgrade() -> None:
    op.add_column("frames", sa.Column("camera_timestamp", sa.DateTime(timezone=True), nullable=True))
    op.add_column("ingestion_requests", sa.Column("group_id", sa.UUID(), nullable=True))
    op.create_index("ix_ingestion_requests_group_id", "ingestion_requests", ["group_id", "id"], postgresql_where=_GROUPED)
    op.add_column(
        "ingestion_requests",
        sa.Column("idle_slots", postgresql.INT4MULTIRANGE(), server_default=sa.text("'{}'::int4multirange"), nullable=False),
    )
    _ledger(f"expected - slot_count(idle_slots) - stored - {_DROPPED}")
    op.create_table(
        "capture_events",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("request_id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("score", sa.Float(precision=53), nullable=True),
        sa.Column("from_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("to_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('motion', 'trigger')", name=op.f("ck_capture_events_kind")),
        sa.CheckConstraint(
            "seen_at >= from_at AND (to_at IS NULL OR to_at >= from_at)", name=op.f("ck_capture_events_order")
        ),
        sa.ForeignKeyConstraint(
            ["request_id"], ["ingestion_requests.id"], name=op.f("fk_capture_events_request_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_capture_events")),
    )
    op.create_index(op.f("ix_capture_events_request_id_from_at_id"), "capture_events", ["request_id", "from_at", "id"])
    op.create_index(op.f("ix_capture_events_request_id_created_at_id"), "capture_events", ["request_id", "created_at", "id"])
    functions.create("record_slots", "settle_slots", "open_slots")


def downgrade() -> None:
    functions.drop("record_slots", "settle_slots", "open_slots")
    op.drop_table("capture_events")
    _ledger(f"expected - stored - {_DROPPED}")
    op.drop_column("ingestion_requests", "idle_slots")
    op.drop_index("ix_ingestion_requests_group_id", table_name="ingestion_requests")
    op.drop_column("ingestion_requests", "group_id")
    op.drop_column("frames", "camera_timestamp")
