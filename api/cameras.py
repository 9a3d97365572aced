"""/api/v1/cameras: part of the contract, not built yet. Every endpoint says so with 501."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from api import examples
from api.openapi import json_body, problems
from api.routing import make_router
from utils.exceptions import FeatureNotImplemented

router = make_router("/api/v1/cameras", tags=["cameras"])

_OBJECT: dict[str, Any] = {"type": "object"}
_ENDPOINTS: tuple[tuple[str, str, str, str, dict[str, Any] | None], ...] = (
    ("POST", "", "create_camera", "Register a camera", examples.CAMERA),
    ("GET", "", "list_cameras", "Cameras", None),
    ("POST", "/probe", "probe_url", "Try a camera URL", {"rtsp_url": "rtsp://192.168.1.20:554/stream1"}),
    ("GET", "/{camera_id}", "get_camera", "One camera", None),
    ("PATCH", "/{camera_id}", "update_camera", "Change a camera (RFC 7396)", {"enabled": False}),
    ("DELETE", "/{camera_id}", "delete_camera", "Remove a camera", None),
    ("POST", "/{camera_id}/probe", "probe_camera", "Try a registered camera", None),
    ("POST", "/{camera_id}/snapshot", "take_snapshot", "Take one picture now", {"meta": {"session": "FP1"}}),
)


def _add(method: str, path: str, name: str, summary: str, body: dict[str, Any] | None) -> None:
    async def by_id(camera_id: str) -> Response:
        raise FeatureNotImplemented("The camera registry is not built yet.")

    async def plain() -> Response:
        raise FeatureNotImplemented("The camera registry is not built yet.")

    router.add_api_route(
        path,
        by_id if "{camera_id}" in path else plain,
        methods=[method],
        status_code=501,
        response_class=Response,
        response_description="Not built yet",
        operation_id=name,
        summary=f"{summary} (not built yet)",
        responses=problems("not_implemented", "overloaded", "shutting_down", "invalid_request", common=False),
        openapi_extra=json_body(_OBJECT, body) if body is not None else None,
    )


for _endpoint in _ENDPOINTS:
    _add(*_endpoint)
