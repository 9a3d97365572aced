"""initial schema"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from repositories.migrations import functions

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
PHASE = "expand"

_REASONS = (
    "camera_down", "no_picture", "decode_failed", "queue_full", "spool_full",
    "spooled", "surplus", "lease_lost", "cancelled", "rejected",
)  # fmt: skip
_DROPPED = " - ".join(f"slot_count(dropped_{reason})" for reason in _REASONS)


def _slots(name: str) -> sa.Column[Any]:
    return sa.Column(
        name, postgresql.INT4MULTIRANGE(), server_default=sa.text("'{}'::int4multirange"), nullable=False
    )  # fmt: skip


def upgrade() -> None:
    functions.create("slot_count")
    op.create_table(
        "api_keys",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("cameras", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_api_keys_key_hash")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("caller", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_at"), "audit", ["at"], unique=False)
    op.create_table(
        "camera_configurations",
        sa.Column("camera_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("rtsp_url", sa.Text(), nullable=False),
        sa.Column("transport", sa.Text(), server_default=sa.text("'tcp'"), nullable=False),
        sa.Column("location", sa.Text(), nullable=True),
        sa.Column("camera_angle", sa.Text(), nullable=True),
        sa.Column("calibration", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("default_fps", sa.Float(precision=53), nullable=True),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("keep_open", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("reader", sa.Text(), nullable=True),
        sa.Column("meta", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "camera_id ~ '^[A-Za-z0-9._-]{1,100}$' AND camera_id !~ '^[.]+$'",
            name=op.f("ck_camera_configurations_camera_id"),
        ),
        sa.CheckConstraint("transport IN ('tcp', 'udp')", name=op.f("ck_camera_configurations_transport")),
        sa.CheckConstraint(
            "default_fps IS NULL OR (default_fps > 0 AND default_fps <= 30)",
            name=op.f("ck_camera_configurations_default_fps"),
        ),
        sa.PrimaryKeyConstraint("camera_id", name=op.f("pk_camera_configurations")),
    )
    op.create_index(
        op.f("ix_camera_configurations_created_at_camera_id"),
        "camera_configurations",
        ["created_at", "camera_id"],
        unique=False,
    )
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("camera_id", sa.Text(), nullable=True),
        sa.Column("event", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_camera_id_seq"), "events", ["camera_id", "seq"], unique=False)
    op.create_index(op.f("ix_events_created_at"), "events", ["created_at"], unique=False)
    op.create_index(op.f("ix_events_type_seq"), "events", ["type", "seq"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=True),
        sa.Column("request_id", sa.UUID(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("answer", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"], unique=False)
    op.create_table(
        "ingestion_requests",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("camera_id", sa.Text(), nullable=False),
        sa.Column("source_type", sa.Text(), nullable=False),
        sa.Column("capture_mode", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("rtsp_url", sa.Text(), nullable=True),
        sa.Column("params", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("meta", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("source", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "rejected", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column("grid_start", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expected", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("stored", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("deleted", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("duplicates", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("reconnects", sa.Integer(), server_default=sa.text("0"), nullable=False),
        *(_slots(f"dropped_{reason}") for reason in _REASONS),
        sa.Column(
            "in_flight",
            sa.Integer(),
            sa.Computed(f"expected - stored - {_DROPPED}", persisted=True),
            nullable=False,
        ),
        sa.Column("last_frame_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "(source_type = 'rtsp') = (capture_mode IS NOT NULL)", name=op.f("ck_ingestion_requests_mode_of_rtsp")
        ),
        sa.CheckConstraint(
            "capture_mode IS NULL OR capture_mode IN ('single_frame', 'continuous', 'event_driven')",
            name=op.f("ck_ingestion_requests_capture_mode"),
        ),
        sa.CheckConstraint("source_type IN ('rtsp', 'upload')", name=op.f("ck_ingestion_requests_source_type")),
        sa.CheckConstraint(
            "status IN ('pending', 'in_progress', 'completed', 'failed', 'cancelled')",
            name=op.f("ck_ingestion_requests_status"),
        ),
        sa.CheckConstraint(
            "status NOT IN ('completed', 'failed', 'cancelled') OR (in_flight = 0 AND completed_at IS NOT NULL)",
            name=op.f("ck_ingestion_requests_final_is_settled"),
        ),
        sa.CheckConstraint(
            "expected >= 0 AND stored >= 0 AND deleted >= 0 AND deleted <= stored",
            name=op.f("ck_ingestion_requests_counters"),
        ),
        sa.CheckConstraint("in_flight >= 0", name=op.f("ck_ingestion_requests_ledger")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ingestion_requests")),
    )
    op.create_index(
        op.f("ix_ingestion_requests_camera_id_created_at_id"),
        "ingestion_requests",
        ["camera_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_ingestion_requests_capture_mode_created_at_id"),
        "ingestion_requests",
        ["capture_mode", "created_at", "id"],
        unique=False,
    )
    op.create_index(op.f("ix_ingestion_requests_created_at_id"), "ingestion_requests", ["created_at", "id"], unique=False)
    op.create_index(
        op.f("ix_ingestion_requests_source_type_created_at_id"),
        "ingestion_requests",
        ["source_type", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_ingestion_requests_status_created_at_id"),
        "ingestion_requests",
        ["status", "created_at", "id"],
        unique=False,
    )
    op.create_table(
        "object_keys",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('live', 'condemned')", name=op.f("ck_object_keys_state")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_object_keys")),
    )
    op.create_table(
        "outbox_pending",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("event", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox_pending")),
    )
    op.create_table(
        "capture_gaps",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("request_id", sa.UUID(), nullable=False),
        sa.Column("from_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("to_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.CheckConstraint("to_at IS NULL OR to_at >= from_at", name=op.f("ck_capture_gaps_order")),
        sa.ForeignKeyConstraint(
            ["request_id"], ["ingestion_requests.id"], name=op.f("fk_capture_gaps_request_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_capture_gaps")),
    )
    op.create_index(
        op.f("ix_capture_gaps_request_id_from_at_id"), "capture_gaps", ["request_id", "from_at", "id"], unique=False
    )
    op.create_index(
        "uq_capture_gaps_open", "capture_gaps", ["request_id"], unique=True, postgresql_where=sa.text("to_at IS NULL")
    )
    op.create_table(
        "capture_leases",
        sa.Column("request_id", sa.UUID(), nullable=False),
        sa.Column("camera_id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("epoch >= 0", name=op.f("ck_capture_leases_epoch")),
        sa.ForeignKeyConstraint(
            ["request_id"], ["ingestion_requests.id"], name=op.f("fk_capture_leases_request_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_capture_leases")),
    )
    op.create_index(op.f("ix_capture_leases_expires_at"), "capture_leases", ["expires_at"], unique=False)
    op.create_index(op.f("ix_capture_leases_owner"), "capture_leases", ["owner"], unique=False)
    op.create_table(
        "frames",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("request_id", sa.UUID(), nullable=False),
        sa.Column("camera_id", sa.Text(), nullable=False),
        sa.Column("source_type", sa.Text(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'stored'"), nullable=False),
        sa.Column("filename", sa.Text(), nullable=True),
        sa.Column("storage_path", sa.Text(), nullable=False),
        sa.Column("capture_timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("timestamp_source", sa.Text(), nullable=False),
        sa.Column("timestamp_uncertainty_ms", sa.Float(precision=53), nullable=True),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("duplicate_of", sa.UUID(), nullable=True),
        sa.Column("exif", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("meta", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("format IN ('jpg', 'png', 'bmp', 'tiff')", name=op.f("ck_frames_format")),
        sa.CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name=op.f("ck_frames_sha256")),
        sa.CheckConstraint("source_type IN ('rtsp', 'upload')", name=op.f("ck_frames_source_type")),
        sa.CheckConstraint("state IN ('stored', 'deleting', 'deleted')", name=op.f("ck_frames_state")),
        sa.CheckConstraint(
            "timestamp_source IN ('rtcp', 'receipt', 'exif', 'client', 'upload')", name=op.f("ck_frames_timestamp_source")
        ),
        sa.CheckConstraint("sequence >= 0 AND width > 0 AND height > 0 AND size_bytes > 0", name=op.f("ck_frames_sizes")),
        sa.ForeignKeyConstraint(
            ["request_id"], ["ingestion_requests.id"], name=op.f("fk_frames_request_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_frames")),
        sa.UniqueConstraint("request_id", "sequence", name=op.f("uq_frames_request_id_sequence")),
        sa.UniqueConstraint("storage_path", name=op.f("uq_frames_storage_path")),
    )
    op.create_index(
        op.f("ix_frames_camera_id_capture_timestamp_id"),
        "frames",
        ["camera_id", "capture_timestamp", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'stored'"),
    )
    op.create_index(
        op.f("ix_frames_camera_id_sha256_stored_at_id"), "frames", ["camera_id", "sha256", "stored_at", "id"], unique=False
    )
    op.create_index(
        op.f("ix_frames_capture_timestamp_id"),
        "frames",
        ["capture_timestamp", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'stored'"),
    )
    op.create_index(
        "ix_frames_deleting", "frames", ["stored_at"], unique=False, postgresql_where=sa.text("state = 'deleting'")
    )
    op.create_index(
        op.f("ix_frames_request_id_capture_timestamp_id"),
        "frames",
        ["request_id", "capture_timestamp", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'stored'"),
    )
    op.create_index(
        op.f("ix_frames_source_type_capture_timestamp_id"),
        "frames",
        ["source_type", "capture_timestamp", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'stored'"),
    )
    op.create_index(op.f("ix_frames_stored_at_id"), "frames", ["stored_at", "id"], unique=False)


def downgrade() -> None:
    tables = (
        "frames", "capture_leases", "capture_gaps", "outbox_pending", "object_keys", "ingestion_requests",
        "idempotency_keys", "events", "camera_configurations", "audit", "api_keys",
    )  # fmt: skip
    for table in tables:
        op.drop_table(table)
    functions.drop("settle_slots", "record_slots", "slot_count")
