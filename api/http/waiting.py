"""Work that is done only as long as somebody waits for it."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from api.http.state import AppState
from utils.exceptions import ShuttingDown
from utils.tasks import first_of

T = TypeVar("T")


async def disconnected(request: Request) -> None:
    """Returns when the client has gone away. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def while_wanted(request: Request, state: AppState, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; it is cancelled when the client goes away or the service stops. Raises ShuttingDown then."""
    task = await first_of(work, state.stopping.wait(), disconnected(request))
    if task is None:
        raise ShuttingDown  # to a client that is gone, any answer will do
    return task.result()
