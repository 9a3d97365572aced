"""Health, readiness and metrics: served also when overloaded or stopping."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from api.http import examples
from api.http.access.rules import needs, public
from api.http.dependencies import StateDep
from api.http.openapi import answer, problems
from api.http.routing import make_router
from api.http.state import AppState
from models.access import Scope
from models.schemas import HealthCheckResponse, LiveResponse, ReadyResponse
from services.execution.health import Health
from services.reads.serializers.health import to_health
from utils.metrics import exposition

router = make_router(tags=["operations"])


async def _check(state: AppState) -> Health:
    if state.services is None:
        return Health("unhealthy", datetime.now(UTC), dependencies={}, checks={})
    health: Health = await state.services.health.check()
    return replace(health, status="unhealthy") if state.stopping.is_set() else health


def _answer(health: Health) -> Response:
    status = 503 if health.status == "unhealthy" else 200
    headers = {"Cache-Control": "no-store"} | ({"Retry-After": "1"} if status == 503 else {})
    return JSONResponse(to_health(health).model_dump(mode="json"), status_code=status, headers=headers)


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: answer("Healthy, or degraded.", examples.HEALTH),
    503: answer("Unhealthy, or stopping.", {**examples.HEALTH, "status": "unhealthy"}) | {"model": HealthCheckResponse},
    **problems("invalid_request", "internal_error", common=False),
}


@router.get(
    "/health", operation_id="health", summary="Health of all parts", response_model=HealthCheckResponse, responses=_RESPONSES
)
@needs(Scope.METRICS_READ)
async def health(state: StateDep) -> Response:
    return _answer(await _check(state))


@router.get(
    "/health/ready",
    operation_id="health_ready",
    summary="Whether to send requests here",
    response_model=HealthCheckResponse | ReadyResponse,
    responses={**_RESPONSES, 503: _RESPONSES[503] | {"model": HealthCheckResponse | ReadyResponse}},
)
@public
async def health_ready(state: StateDep) -> Response:
    health = await _check(state)
    if state.settings.AUTH.MODE != "off":  # anybody may ask: the status only
        status = 503 if health.status == "unhealthy" else 200
        headers = {"Cache-Control": "no-store"} | ({"Retry-After": "1"} if status == 503 else {})
        return JSONResponse({"status": health.status}, status_code=status, headers=headers)
    return _answer(health)


@router.get(
    "/health/live",
    operation_id="health_live",
    summary="Whether the process answers",
    response_model=LiveResponse,
    responses={200: answer("It does.", {"status": "alive"}), **problems("invalid_request", common=False)},
)
@public
async def health_live() -> Any:
    return LiveResponse(status="alive")


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {"description": "Text exposition.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **problems("invalid_request", common=False),
    },
)
@needs(Scope.METRICS_READ)
async def metrics() -> Response:
    return Response(await run_in_threadpool(exposition), headers={"Content-Type": CONTENT_TYPE_LATEST})
