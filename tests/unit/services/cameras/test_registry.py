"""What a camera's retention_days may be, and who is told what a probe finds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from models.access import ALL_CAMERAS, ANONYMOUS, Principal, Scope
from models.entities import CameraConfiguration
from models.schemas import CameraCreate, ProbeRequest
from services.cameras.registry import CameraRegistry
from services.rtsp_capture.connection.camera_address import AddressPolicy
from utils.exceptions import InvalidRequest


def registry(min_days: float, prober: Any = None) -> CameraRegistry:
    nothing: Any = None  # days are judged before any of these is touched
    policy = AddressPolicy(["127.0.0.0/8"])
    here: Any = SimpleNamespace(serves=lambda _site: True)
    return CameraRegistry(nothing, nothing, policy, nothing, prober, nothing, nothing, 1, here, min_retention_days=min_days)


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


class _Asked(Exception):
    def __init__(self, stranger: bool) -> None:
        self.stranger = stranger


class _Prober:
    async def probe(self, *_: object, stranger: bool) -> None:
        raise _Asked(stranger)


@pytest.mark.parametrize(("scope", "stranger"), [(Scope.ADMIN, False), (Scope.CAMERAS_WRITE, True)])
async def test_who_is_no_administrator_is_a_stranger_to_a_probe(scope: Scope, stranger: bool) -> None:
    who = Principal("k", "key", "k", frozenset({scope}), ALL_CAMERAS)
    cameras: Any = registry(1, _Prober())

    async def row(_: str) -> CameraConfiguration:
        return CameraConfiguration(camera_id="a", rtsp_url="rtsp://127.0.0.1/x", transport="tcp", reader=None)

    cameras._row, cameras._secrets = row, SimpleNamespace(open=lambda text: text)
    for asked in (cameras.probe_url(ProbeRequest(rtsp_url="rtsp://127.0.0.1/x"), who), cameras.probe("a", who)):
        with pytest.raises(_Asked) as caught:
            await asked
        assert caught.value.stranger is stranger
