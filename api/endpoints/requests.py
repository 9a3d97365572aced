"""/api/v1/ingest: starting captures; requests' status, lists, cancelling."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Query
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response

from api.http import examples
from api.http.access.check import WhoDep, allow_camera
from api.http.access.rules import needs
from api.http.dependencies import ServicesDep, StateDep
from api.http.direct import direct
from api.http.idempotency import OperationDep
from api.http.openapi import IDEMPOTENCY, KEYED, PREFER, answer, problems
from api.http.params import Cursor, Limit, MetaText, RequestId, StrictUuid
from api.http.prefer import wait_final
from api.http.routing import json_answer, make_router
from models.access import Scope
from models.schemas import CameraId, IngestionResponse, RequestPage, RTSPIngestionRequest, Timestamp
from models.values import CaptureMode, IngestionStatus, Phase, RequestFilter, SourceType

router = make_router("/api/v1/ingest", tags=["ingest"])


def status_location(request_id: UUID) -> str:
    """Where a request's state is found."""
    return f"/api/v1/ingest/status/{request_id}"


@router.post(
    "/rtsp",
    status_code=202,
    operation_id="submit_capture",
    summary="Capture from a camera",
    response_model=IngestionResponse,
    response_description="Accepted.",
    responses={
        200: answer("With `Prefer: wait`: the final state, failed included.", examples.FINAL, location=True)
        | {"model": IngestionResponse},
        202: answer("Accepted; Location has the state.", examples.ACCEPTED, location=True),
        **problems(
            "not_applicable", "timestamp_out_of_range", "address_not_allowed", "camera_disabled", "too_many_pending",
            "payload_too_large", "unsupported_media_type", "request_timeout", *KEYED,
        ),
    },
    openapi_extra={"parameters": [PREFER, IDEMPOTENCY]},
)  # fmt: skip
@needs(Scope.INGEST_WRITE)
@direct
async def submit_capture(
    body: RTSPIngestionRequest,
    request: Request,
    services: ServicesDep,
    state: StateDep,
    operation: OperationDep,
    who: WhoDep,
) -> Response:
    """Answers at once, before the camera is reached. With `Prefer: wait=N` it waits for the final state."""
    services.orchestrator.check_accepting()
    allow_camera(who, body.camera_id)
    operation.answers(202, lambda accepted: status_location(accepted.request_id))
    accepted = await services.orchestrator.submit_capture(body, who, operation)
    headers = MutableHeaders({"Location": status_location(accepted.request_id)})
    final = await wait_final(request, headers, state, services, accepted.request_id)
    waited = "Preference-Applied" in headers
    shown = await services.queries.request_body(accepted.request_id, who) if waited else accepted.body
    return json_answer(shown, headers, 200 if final else 202)


@router.get(
    "/status/{request_id}",
    operation_id="get_request",
    summary="State of a request",
    response_model=IngestionResponse,
    responses={200: answer("The state.", examples.FINAL), **problems("request_not_found")},
    openapi_extra={"parameters": [PREFER]},
)
@needs(Scope.INGEST_READ)
@direct
async def get_request(
    request_id: RequestId, request: Request, services: ServicesDep, state: StateDep, who: WhoDep
) -> Response:
    """With `Prefer: wait=N`: as soon as the state is final, or after N seconds."""
    headers = MutableHeaders({"Vary": "Prefer"})
    current = await services.queries.request_body(request_id, who)  # an unknown one is 404 without a wait
    if await wait_final(request, headers, state, services, request_id) or "Preference-Applied" in headers:
        current = await services.queries.request_body(request_id, who)
    return json_answer(current, headers)


async def _filter(
    camera_id: Annotated[CameraId | None, Query()] = None,
    status: Annotated[IngestionStatus | None, Query()] = None,
    source_type: Annotated[SourceType | None, Query()] = None,
    capture_mode: Annotated[CaptureMode | None, Query()] = None,
    group_id: Annotated[StrictUuid | None, Query(description="A burst's requests.")] = None,
    created_from: Annotated[Timestamp | None, Query(description="Inclusive.")] = None,
    created_to: Annotated[Timestamp | None, Query(description="Exclusive.")] = None,
    subject: Annotated[MetaText | None, Query(description="`meta.subject`.", examples=["car-44"])] = None,
    session: Annotated[MetaText | None, Query(description="`meta.session`.", examples=["FP1"])] = None,
    phase: Annotated[Phase | None, Query(description="`meta.phase`.")] = None,
) -> RequestFilter:
    return RequestFilter(
        camera_id=camera_id, status=status, source_type=source_type, capture_mode=capture_mode,
        created_from=created_from, created_to=created_to, group_id=group_id, subject=subject, session=session, phase=phase,
    )  # fmt: skip


@router.get(
    "/requests",
    operation_id="list_requests",
    summary="Requests, newest first",
    response_model=RequestPage,
    responses={200: answer("A page.", examples.REQUEST_PAGE), **problems()},
)
@needs(Scope.INGEST_READ)
async def list_requests(
    services: ServicesDep,
    who: WhoDep,
    matching: Annotated[RequestFilter, Depends(_filter)],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    return await services.queries.list_requests(matching, limit, cursor, who)


@router.post(
    "/requests/{request_id}/cancel",
    status_code=202,
    operation_id="cancel_request",
    summary="Cancel a request",
    response_model=IngestionResponse,
    responses={
        200: answer("It was final already; unchanged.", examples.FINAL) | {"model": IngestionResponse},
        202: answer("Cancelling; frames captured before are stored.", examples.ACCEPTED, location=True),
        **problems("request_not_found", *KEYED),
    },
    openapi_extra={"parameters": [IDEMPOTENCY]},
)
@needs(Scope.INGEST_WRITE)
async def cancel_request(request_id: RequestId, response: Response, services: ServicesDep, who: WhoDep) -> Any:
    was_final = await services.orchestrator.cancel(request_id, who.cameras)
    response.headers["Location"] = status_location(request_id)
    if was_final:
        response.status_code = 200
    return await services.queries.get_request(request_id, who)
