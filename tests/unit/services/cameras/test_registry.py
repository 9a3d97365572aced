"""What a camera's retention_days may be."""

from __future__ import annotations

from typing import Any

import pytest

from models.access import ANONYMOUS
from models.entities import CameraConfiguration
from models.schemas import CameraCreate
from services.cameras.registry import CameraRegistry
from services.rtsp_capture.connection.address import AddressPolicy
from utils.exceptions import InvalidRequest


def registry(min_days: float) -> CameraRegistry:
    nothing: Any = None  # days are judged before any of these is touched
    policy = AddressPolicy(["127.0.0.0/8"])
    return CameraRegistry(nothing, nothing, policy, nothing, nothing, nothing, nothing, 1, min_retention_days=min_days)


@pytest.mark.parametrize("days", [0.001, 0.5, 0.999])
async def test_frames_are_kept_for_a_day_at_least(days: float) -> None:
    """As little as 1e-5 deleted a camera's frames within a minute."""
    cameras = registry(1)
    body = CameraCreate(camera_id="a", rtsp_url="rtsp://127.0.0.1/x", retention_days=days)
    with pytest.raises(InvalidRequest, match="at least 1") as refused:
        await cameras.create(body, ANONYMOUS)
    assert [(error.pointer, error.code) for error in refused.value.errors] == [("/retention_days", "greater_than_equal")]
    row = CameraConfiguration(camera_id="a", retention_days=30.0)
    with pytest.raises(InvalidRequest, match="at least 1"):
        cameras._changes(row, {"retention_days": days})
    assert cameras._changes(row, {"retention_days": 1.0}) == {"retention_days": 1.0}
    assert cameras._changes(row, {"retention_days": None}) == {"retention_days": None}


def test_what_an_earlier_version_took_may_be_sent_back() -> None:
    row = CameraConfiguration(camera_id="a", retention_days=0.5)
    assert registry(1)._changes(row, {"retention_days": 0.5}) == {"retention_days": 0.5}
