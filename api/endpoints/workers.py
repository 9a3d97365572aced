"""/api/v1/workers: the processes of this deployment, for administrators."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from starlette.responses import Response

from api.http import examples
from api.http.access.rules import needs
from api.http.dependencies import ServicesDep
from api.http.openapi import answer, problems
from api.http.params import StrictUuid
from api.http.routing import make_router
from models.access import Scope
from models.schemas import WorkerList
from services.reads.serializers.workers import to_worker

router = make_router("/api/v1/workers", tags=["operations"])

WorkerId = Annotated[StrictUuid, Path(description="The process's id.")]


@router.get(
    "",
    operation_id="list_workers",
    summary="Processes of this deployment",
    response_model=WorkerList,
    responses={200: answer("Those that are alive.", examples.WORKERS), **problems()},
)
@needs(Scope.ADMIN)
async def list_workers(services: ServicesDep) -> Any:
    """Every process on this database that was seen in the last 8 s, the one that began first before the others."""
    return WorkerList(items=[to_worker(row) for row in await services.membership.all()])


@router.post(
    "/{worker_id}/drain",
    status_code=202,
    operation_id="drain_worker",
    summary="Hand over what a process runs",
    responses={202: {"description": "It will, within 3 s."}, **problems("worker_not_found")},
)
@needs(Scope.ADMIN)
async def drain_worker(worker_id: WorkerId, services: ServicesDep) -> Response:
    """The process hands its captures to others of its site and takes none any more, until it is started again."""
    await services.membership.ask_to_drain(worker_id)
    return Response(status_code=202, headers={"Location": "/api/v1/workers"})
