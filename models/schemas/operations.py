"""Health."""

from __future__ import annotations

from typing import Literal

from models.schemas.base import Output, Timestamp


class HealthCheck(Output):
    status: Literal["healthy", "degraded", "unhealthy"]
    latency_ms: float | None
    detail: str | None


class HealthCheckResponse(Output):
    status: Literal["healthy", "degraded", "unhealthy"]
    timestamp: Timestamp
    version: str
    dependencies: dict[str, Literal["healthy", "degraded", "unhealthy"]]
    checks: dict[str, HealthCheck]


class ReadyResponse(Output):
    """Readiness with access on: the parts are told to GET /health only."""

    status: Literal["healthy", "degraded", "unhealthy"]


class LiveResponse(Output):
    status: Literal["alive"]
