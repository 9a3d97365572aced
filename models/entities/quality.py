"""What the pictures of each camera are judged by, and whether the camera is bad at present."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, Integer, LargeBinary, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.entities.base import Base, Json, created_now, one_of
from models.values import SourceType


class CameraQuality(Base):
    """One row for each camera's captures, and one for its uploads; the camera need not be registered.

    `baseline`, `scene`: as services/quality writes them (a scene is a small grey picture); any process may overwrite them,
    each has seen the same camera. `verdict` is changed by compare-and-set, of captures only; a trigger reports the change.
    """

    __tablename__ = "camera_quality"

    camera_id: Mapped[str] = mapped_column(primary_key=True)
    source_type: Mapped[str] = mapped_column(primary_key=True)
    baseline: Mapped[Json]
    scene: Mapped[bytes | None] = mapped_column(LargeBinary)
    verdict: Mapped[str] = mapped_column(server_default=text("'good'"))
    reasons: Mapped[list[Any]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))  # of the frames of the streak
    streak: Mapped[int] = mapped_column(Integer, server_default=text("0"))  # frames in a row that made the verdict
    since: Mapped[datetime | None]  # capture time of the first of them
    updated_at: Mapped[datetime] = created_now()

    __table_args__ = (
        CheckConstraint(one_of("source_type", SourceType), name="source_type"),
        CheckConstraint(one_of("verdict", ("good", "bad")), name="verdict"),
        CheckConstraint("octet_length(scene) <= 65536", name="scene"),
        Index(None, "updated_at"),
    )
