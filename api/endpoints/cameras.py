"""/api/v1/cameras: the registry, trying a camera, one picture now.

Longer than 250 lines: most of a route is what OpenAPI says of it.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

from fastapi import Depends, Path
from starlette.requests import Request
from starlette.responses import Response

from api.http import examples
from api.http.access.check import WhoDep, allow_camera, share, waiting
from api.http.access.rules import needs
from api.http.body import media_type
from api.http.dependencies import ServicesDep, StateDep
from api.http.idempotency import OperationDep
from api.http.openapi import IDEMPOTENCY, KEYED, answer, problems
from api.http.params import Cursor, Limit
from api.http.routing import make_router
from api.http.waiting import while_wanted
from models.access import Scope
from models.schemas import (
    CameraConfiguration,
    CameraCreate,
    CameraId,
    CameraPage,
    CameraPatch,
    DiscoverRequest,
    DiscoverResponse,
    FrameInfo,
    ProbeRequest,
    ProbeResponse,
    SnapshotRequest,
)
from utils.exceptions import CaptureCode, UnsupportedMediaType

router = make_router("/api/v1/cameras", tags=["cameras"])

PathCameraId = Annotated[CameraId, Path(description="The camera's id.")]
PROBES = 20  # at once, those that wait for their turn included
PATCH_TYPES = ("application/merge-patch+json", "application/json")
_BODY = ("payload_too_large", "unsupported_media_type", "request_timeout")
# A snapshot asks for no past moment.
_CAMERA_CODES = [code for code in get_args(CaptureCode) if code != "timestamp_out_of_range"]


_DEVICE_CODES = (
    "unauthorized_camera", "forbidden_camera", "connection_refused", "connect_timeout", "read_timeout", "dns_failure",
    "tls_error", "redirect_refused",
)  # fmt: skip


def _body_example(example: Any) -> dict[str, Any]:
    return {"requestBody": {"content": {"application/json": {"example": example}}}}


def _located(description: str, example: Any, what: str) -> dict[str, Any]:
    return answer(description, example) | {"headers": {"Location": {"description": what, "schema": {"type": "string"}}}}


@router.post(
    "",
    status_code=201,
    operation_id="create_camera",
    summary="Register a camera",
    response_model=CameraConfiguration,
    responses={
        201: _located("Registered.", {**examples.CAMERA, "stream": None}, "The camera."),
        **problems("camera_exists", "address_not_allowed", *_BODY),
    },
    openapi_extra=_body_example(examples.CAMERA_NEW),
)
@needs(Scope.CAMERAS_WRITE)
async def create_camera(body: CameraCreate, response: Response, services: ServicesDep, who: WhoDep) -> Any:
    allow_camera(who, body.camera_id)
    created = await services.cameras.create(body, who)
    response.headers["Location"] = f"/api/v1/cameras/{created.camera_id}"
    return created


@router.get(
    "",
    operation_id="list_cameras",
    summary="Cameras, in the order of their registration",
    response_model=CameraPage,
    responses={200: answer("A page.", examples.CAMERA_PAGE), **problems()},
)
@needs(Scope.CAMERAS_READ)
async def list_cameras(services: ServicesDep, who: WhoDep, limit: Limit = 50, cursor: Cursor = None) -> Any:
    return await services.cameras.list(limit, cursor, who)


@router.post(
    "/probe",
    operation_id="probe_url",
    summary="Try a camera URL",
    response_model=ProbeResponse,
    responses={
        200: answer("What was found; an unreachable camera is `reachable: false` with its code.", examples.PROBE),
        **problems("address_not_allowed", "no_worker", *_BODY),
    },
    openapi_extra=_body_example({"rtsp_url": "rtsp://192.168.1.20:554/stream1"}),
)
@needs(Scope.CAMERAS_WRITE)
async def probe_url(body: ProbeRequest, request: Request, services: ServicesDep, state: StateDep, who: WhoDep) -> Any:
    """Connects, reads 3 to 12 seconds of packets, decodes one picture. Stores nothing."""
    with share(request, "probes", PROBES):
        return await while_wanted(request, state, services.cameras.probe_url(body, who))


@router.post(
    "/discover",
    operation_id="discover_cameras",
    summary="Find cameras, or one device's streams",
    response_model=DiscoverResponse,
    responses={
        200: answer("What was found; an empty list when nothing answered.", examples.DISCOVERED),
        **problems("address_not_allowed", "not_onvif", "no_worker", *_BODY, *_DEVICE_CODES),
    },
    openapi_extra=_body_example({"address": "192.168.1.20", "username": "admin", "password": "…"}),
)
@needs(Scope.CAMERAS_WRITE)
async def discover_cameras(
    request: Request, services: ServicesDep, state: StateDep, who: WhoDep, body: DiscoverRequest
) -> Any:
    """Without `address`: a WS-Discovery search. With it: the device's media profiles, by ONVIF. Stores nothing."""
    with share(request, "probes", PROBES):
        return await while_wanted(request, state, services.discovery.discover(body, who))


@router.get(
    "/{camera_id}",
    operation_id="get_camera",
    summary="One camera",
    response_model=CameraConfiguration,
    responses={200: answer("The camera.", examples.CAMERA), **problems("camera_not_found")},
)
@needs(Scope.CAMERAS_READ)
async def get_camera(camera_id: PathCameraId, services: ServicesDep, who: WhoDep) -> Any:
    return await services.cameras.get(camera_id, who.cameras)


async def _patch_type(request: Request) -> None:
    """Any other +json, a JSON Patch for one, means something else."""
    if "content-type" in request.headers and media_type(request) not in PATCH_TYPES:
        raise UnsupportedMediaType("Send the changes as application/merge-patch+json or application/json.")


@router.patch(
    "/{camera_id}",
    operation_id="update_camera",
    summary="Change a camera (RFC 7396)",
    response_model=CameraConfiguration,
    dependencies=[Depends(_patch_type)],
    responses={
        200: answer("As it is now.", examples.CAMERA),
        **problems("camera_not_found", "address_not_allowed", *_BODY),
    },
    openapi_extra={
        "requestBody": {
            "content": {
                "application/merge-patch+json": {
                    "schema": {"$ref": "#/components/schemas/CameraPatch"},
                    "example": examples.CAMERA_PATCH,
                },
                "application/json": {"example": examples.CAMERA_PATCH},
            }
        }
    },
)
@needs(Scope.CAMERAS_WRITE)
async def update_camera(camera_id: PathCameraId, body: CameraPatch, services: ServicesDep, who: WhoDep) -> Any:
    """Absent members stay, null resets, objects are merged. An rtsp_url equal to its masked form keeps what is not
    shown; `rtsp://@host/path`, with an empty login, takes the login away."""
    allow_camera(who, camera_id)
    return await services.cameras.update(camera_id, body, who)


@router.delete(
    "/{camera_id}",
    status_code=204,
    operation_id="delete_camera",
    summary="Remove a camera; its frames stay",
    responses=problems("camera_not_found", "camera_in_use"),
)
@needs(Scope.CAMERAS_WRITE)
async def delete_camera(camera_id: PathCameraId, services: ServicesDep, who: WhoDep) -> Response:
    allow_camera(who, camera_id)
    await services.cameras.delete(camera_id)
    return Response(status_code=204)


@router.post(
    "/{camera_id}/probe",
    operation_id="probe_camera",
    summary="Try a registered camera",
    response_model=ProbeResponse,
    responses={
        200: answer("What was found; an unreachable camera is `reachable: false` with its code.", examples.PROBE),
        **problems("camera_not_found", "no_worker"),
    },
)
@needs(Scope.CAMERAS_WRITE)
async def probe_camera(
    camera_id: PathCameraId, request: Request, services: ServicesDep, state: StateDep, who: WhoDep
) -> Any:
    """As `POST /cameras/probe`, with the registered URL; also of a disabled camera."""
    allow_camera(who, camera_id)
    with share(request, "probes", PROBES):
        return await while_wanted(request, state, services.cameras.probe(camera_id, who))


def _frame_location(frame: FrameInfo) -> str:
    return f"/api/v1/frames/{frame.frame_id}"


@router.post(
    "/{camera_id}/snapshot",
    status_code=201,
    operation_id="take_snapshot",
    summary="Take one picture now",
    response_model=FrameInfo,
    responses={
        201: _located("Stored.", examples.FRAME, "The frame."),
        **problems(
            "camera_not_found", "camera_disabled", "too_many_pending", "storage_unavailable", "no_worker",
            *KEYED, *_BODY, *_CAMERA_CODES,
        ),
    },
    openapi_extra={"parameters": [IDEMPOTENCY], **_body_example(examples.SNAPSHOT)},
)  # fmt: skip
@needs(Scope.INGEST_WRITE)
async def take_snapshot(
    camera_id: PathCameraId,
    request: Request,
    response: Response,
    services: ServicesDep,
    state: StateDep,
    operation: OperationDep,
    who: WhoDep,
    body: SnapshotRequest | None = None,
) -> Any:
    """By a single_frame request of its own: from the open stream at once, else the stream is opened for it."""
    services.orchestrator.check_accepting()
    allow_camera(who, camera_id)
    operation.answers(201, _frame_location)
    with waiting(request):
        taking = services.snapshots.take(camera_id, body or SnapshotRequest(), who, operation)
        frame = await while_wanted(request, state, taking)
    response.headers["Location"] = _frame_location(frame)
    return frame
