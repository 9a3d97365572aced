"""Health as the wire shows it."""

from __future__ import annotations

from dataclasses import asdict

from config import VERSION
from models.schemas import HealthCheckResponse
from services.execution.health import Health


def to_health(health: Health) -> HealthCheckResponse:
    """The health with the service's version."""
    return HealthCheckResponse.model_validate({**asdict(health), "version": VERSION})
