"""Work that is cancelled when its client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from api.http.access.check import credential_ended, ended
from api.http.state import AppState
from utils.exceptions import ShuttingDown
from utils.tasks import first_of

T = TypeVar("T")


async def disconnected(request: Request) -> None:
    """Returns when the client has disconnected. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def while_wanted(request: Request, state: AppState, work: Coroutine[Any, Any, T]) -> T:
    """The work's result. Cancels it and raises ShuttingDown when the client disconnects or the service stops, Unauthorized
    when the caller's credential ends."""
    revoked = asyncio.ensure_future(ended(request))
    task = await first_of(work, state.stopping.wait(), disconnected(request), revoked)
    if task is None and not revoked.cancelled():
        raise credential_ended()
    if task is None:
        raise ShuttingDown  # a client that has gone does not read the answer
    return task.result()
