"""/api/v1/ingest/burst: one moment of several cameras."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from fastapi import Path
from starlette.requests import Request
from starlette.responses import Response

from api.http import examples
from api.http.access.check import WhoDep, allow_camera, waiting
from api.http.access.rules import needs
from api.http.dependencies import ServicesDep, StateDep
from api.http.idempotency import OperationDep
from api.http.openapi import IDEMPOTENCY, KEYED, answer, problems
from api.http.params import StrictUuid
from api.http.routing import make_router
from api.http.waiting import while_wanted
from models.access import Scope
from models.schemas import BurstRequest, BurstResponse
from utils.exceptions import CaptureCode

router = make_router("/api/v1/ingest/burst", tags=["ingest"])

GroupId = Annotated[StrictUuid, Path(description="The burst's id.")]


@router.post(
    "",
    status_code=201,
    operation_id="take_burst",
    summary="Take one moment of several cameras",
    response_model=BurstResponse,
    responses={
        201: answer("At least one frame is stored; see `complete` and `results`.", examples.BURST)
        | {"headers": {"Location": {"description": "The burst.", "schema": {"type": "string"}}}},
        **problems(
            "camera_not_found", "camera_disabled", "storage_unavailable", "no_worker", *KEYED, "payload_too_large",
            "unsupported_media_type", "request_timeout", *get_args(CaptureCode),
        ),
    },
    openapi_extra={
        "parameters": [IDEMPOTENCY],
        "requestBody": {"content": {"application/json": {"example": examples.BURST_NEW}}},
    },
)  # fmt: skip
@needs(Scope.INGEST_WRITE)
async def take_burst(
    body: BurstRequest,
    request: Request,
    response: Response,
    services: ServicesDep,
    state: StateDep,
    operation: OperationDep,
    who: WhoDep,
) -> Any:
    """One frame a camera, the one nearest to the same moment, by a single_frame request each.

    Open streams answer from their rings, the others are opened first. Answered when all requests are final. When no
    frame is stored the answer is the first camera's problem, with all of `results`.
    """
    services.orchestrator.check_accepting()
    allow_camera(who, *body.camera_ids)
    with waiting(request):
        taken = await while_wanted(request, state, services.bursts.take(body, who, operation))
    response.headers["Location"] = f"/api/v1/ingest/burst/{taken.group_id}"
    return taken


@router.get(
    "/{group_id}",
    operation_id="get_burst",
    summary="A burst",
    response_model=BurstResponse,
    responses={200: answer("As it stands now.", examples.BURST), **problems("request_not_found")},
)
@needs(Scope.INGEST_READ)
async def get_burst(group_id: GroupId, services: ServicesDep, who: WhoDep) -> Any:
    return await services.bursts.get(group_id, who.cameras)
