"""Dependencies of endpoints, by their parameters' types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends
from starlette.requests import Request

from api.http.state import AppState, app_state
from utils.exceptions import ShuttingDown

if TYPE_CHECKING:
    from services.runtime import Services
else:
    # FastAPI evaluates annotations at import and does not use this type.
    Services = Any


async def get_services(request: Request) -> Services:
    """The running services. Raises ShuttingDown before the start and after the stop."""
    services = app_state(request).services
    if services is None:
        raise ShuttingDown("The service is not running yet, or no longer. Try again.")
    return services


async def get_state(request: Request) -> AppState:
    return app_state(request)


ServicesDep = Annotated[Services, Depends(get_services)]
StateDep = Annotated[AppState, Depends(get_state)]
