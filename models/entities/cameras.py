"""Registered cameras."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Boolean, CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.entities.base import PLAIN_URL, Base, Json, created_now, one_of
from models.entities.workers import SITE_CHECK
from models.values import Encoding


class CameraConfiguration(Base):
    """A registered camera."""

    __tablename__ = "camera_configurations"

    camera_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    description: Mapped[str | None]
    rtsp_url: Mapped[str]  # encrypted (utils.secret_box)
    transport: Mapped[str] = mapped_column(server_default=text("'tcp'"))
    location: Mapped[str | None]
    camera_angle: Mapped[str | None]
    calibration: Mapped[Json | None]
    default_fps: Mapped[float | None]
    enabled: Mapped[bool] = mapped_column(Boolean, server_default=text("true"))
    keep_open: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    kept_by: Mapped[str | None]  # who set keep_open; null while access is off
    reader: Mapped[str | None]
    encoding: Mapped[str] = mapped_column(server_default=text("'jpeg'"))
    retention_days: Mapped[float | None]  # null: RETENTION__DAYS
    exif_timezone: Mapped[str | None]  # null: UPLOAD__EXIF_TIMEZONE
    site: Mapped[str] = mapped_column(server_default=text("'default'"))  # whose workers capture it
    meta: Mapped[Json] = mapped_column(server_default=text("'{}'::jsonb"))
    created_at: Mapped[datetime] = created_now()
    updated_at: Mapped[datetime] = created_now()

    __table_args__ = (
        CheckConstraint("retention_days IS NULL OR retention_days > 0", name="retention_days"),
        CheckConstraint("camera_id ~ '^[A-Za-z0-9._-]{1,100}$' AND camera_id !~ '^[.]+$'", name="camera_id"),
        CheckConstraint(one_of("transport", ("tcp", "udp")), name="transport"),
        CheckConstraint("default_fps IS NULL OR (default_fps > 0 AND default_fps <= 30)", name="default_fps"),
        CheckConstraint("reader IS NULL OR reader IN ('opencv', 'native')", name="reader"),
        CheckConstraint(one_of("encoding", Encoding), name="encoding"),
        CheckConstraint(SITE_CHECK, name="site"),
        Index(None, "created_at", "camera_id"),
        Index("ix_camera_configurations_plain_url", "camera_id", postgresql_where=text(PLAIN_URL)),
    )
