"""Start and end of the application: services, the event loop's lag, leftovers of uploads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from fastapi import FastAPI

from api.http.state import AppState
from config import Settings
from utils.logger import get_logger
from utils.metrics import EVENT_LOOP_LAG, refresh

if TYPE_CHECKING:
    from services.runtime import Services

log = get_logger(__name__)

OpenServices = Callable[[Settings], "AbstractAsyncContextManager[Services]"]
_PROBE_INTERVAL = 0.5
_PROBE_SAMPLES = 10  # 5 s


async def probe_loop_lag() -> None:
    """Keeps EVENT_LOOP_LAG at the longest delay of the last 5 s."""
    clock = asyncio.get_running_loop().time
    lags: deque[float] = deque(maxlen=_PROBE_SAMPLES)
    while True:
        due = clock() + _PROBE_INTERVAL
        await asyncio.sleep(_PROBE_INTERVAL)
        lags.append(max(0.0, clock() - due))
        EVENT_LOOP_LAG.set(max(lags))
        refresh()


@asynccontextmanager
async def _running(task: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _real_services(settings: Settings) -> AbstractAsyncContextManager[Services]:
    # Late: schema tools and unit tests build the application without cv2, boto3 and their threads.
    from services.runtime import open_services

    return open_services(settings)


def make_lifespan(
    state: AppState, open_services: OpenServices | None = None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """The lifespan of an application; `open_services` stands in for services.runtime's in tests."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        factory = open_services or _real_services
        async with AsyncExitStack() as stack:
            stack.push_async_callback(state.upload_pool.close)
            stack.push_async_callback(asyncio.to_thread, state.temp.close)
            if leftovers := await asyncio.to_thread(state.temp.open):
                log.info("stale_uploads_removed", folders=leftovers)
            state.services = await stack.enter_async_context(factory(state.settings))
            await stack.enter_async_context(_running(asyncio.create_task(probe_loop_lag(), name="loop-lag")))
            try:
                yield
            finally:
                # main.py sets it at the signal already; another server only tells us here.
                state.stopping.set()
        state.services = None

    return lifespan
