"""/api/v1/ingest/requests/{id}: the events of event_driven captures, and triggers."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from api.http import examples
from api.http.access.check import WhoDep
from api.http.access.rules import needs
from api.http.dependencies import ServicesDep
from api.http.idempotency import OperationDep
from api.http.openapi import IDEMPOTENCY, KEYED, answer, problems
from api.http.params import Cursor, Limit, RequestId
from api.http.routing import make_router
from models.access import Scope
from models.schemas import EventPage, TriggerAccepted, TriggerRequest

router = make_router("/api/v1/ingest/requests", tags=["ingest"])


@router.post(
    "/{request_id}/trigger",
    status_code=202,
    operation_id="trigger_event",
    summary="Trigger an event",
    response_model=TriggerAccepted,
    responses={
        202: answer("Accepted; Location has the request's events.", examples.TRIGGERED, location=True),
        **problems(
            "request_not_found", "not_running", "timestamp_out_of_range", "payload_too_large", "unsupported_media_type",
            "request_timeout", *KEYED,
        ),
    },
    openapi_extra={
        "parameters": [IDEMPOTENCY],
        "requestBody": {"content": {"application/json": {"example": examples.TRIGGER}}},
    },
)  # fmt: skip
@needs(Scope.INGEST_WRITE)
async def trigger_event(
    request_id: RequestId,
    response: Response,
    services: ServicesDep,
    operation: OperationDep,
    who: WhoDep,
    body: TriggerRequest | None = None,
) -> Any:
    """The slots from pre_roll seconds before `at` until post_roll seconds after it are stored, those that have passed
    from the stream's ring. The capture may run in another process: the event is kept, and found by it within a second."""
    location = f"/api/v1/ingest/requests/{request_id}/events"
    operation.answers(202, lambda _: location)
    event_id = await services.orchestrator.trigger(request_id, body or TriggerRequest(), who.cameras, operation)
    response.headers["Location"] = location
    return TriggerAccepted(event_id=event_id)


@router.get(
    "/{request_id}/events",
    operation_id="list_events",
    summary="Events of an event_driven request, by time",
    response_model=EventPage,
    responses={200: answer("A page.", examples.EVENT_PAGE), **problems("request_not_found")},
)
@needs(Scope.INGEST_READ)
async def list_events(
    request_id: RequestId, services: ServicesDep, who: WhoDep, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    return await services.queries.list_events(request_id, limit, cursor, who)
