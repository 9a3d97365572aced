"""Work that is done only as long as somebody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from api.http.access.check import ended
from api.http.state import AppState
from utils.exceptions import ShuttingDown, Unauthorized

T = TypeVar("T")


async def disconnected(request: Request) -> None:
    """Returns when the client has gone away. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def while_wanted(request: Request, state: AppState, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; it is cancelled when the client goes away or the service stops. Raises ShuttingDown then, and
    Unauthorized when the caller's credential ends."""
    task, revoked = asyncio.ensure_future(work), asyncio.ensure_future(ended(request))
    others = [asyncio.ensure_future(state.stopping.wait()), asyncio.ensure_future(disconnected(request)), revoked]
    try:
        await asyncio.wait({task, *others}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            if revoked.done():
                raise Unauthorized("The credential has ended.", details={"given": True})
            raise ShuttingDown  # to a client that is gone, any answer will do
        return task.result()
    finally:
        for each in (task, *others):
            each.cancel()
        await asyncio.gather(task, *others, return_exceptions=True)
