"""What the application holds beside its services: whether it is stopping, how much it is serving, upload slots."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from starlette.requests import Request

from config import Settings
from utils.exceptions import Overloaded, ShuttingDown
from utils.metrics import UPLOADS_IN_FLIGHT
from utils.pool import WorkerPool

if TYPE_CHECKING:
    from services.runtime import Services

UPLOAD_IO_THREADS = 4
# Operators must see an overloaded or stopping service, so these are served whatever happens.
ALWAYS_SERVED = ("/health", "/health/live", "/health/ready", "/metrics")


class Stopping:
    """Set once, when the stop begins. Belongs to the event loop; `set` is not for signal handlers or threads."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()


@dataclass
class AppState:
    """One per application, at `app.state.trackshift`."""

    settings: Settings
    services: Services | None = None
    stopping: Stopping = field(default_factory=Stopping)
    in_flight: int = 0
    uploads: int = 0
    upload_pool: WorkerPool = field(default_factory=lambda: WorkerPool("upload_io", UPLOAD_IO_THREADS))

    def admit(self, path: str) -> None:
        """Raises ShuttingDown or Overloaded when a request for this route may not be served now."""
        if path in ALWAYS_SERVED:
            return
        if self.stopping.is_set():
            raise ShuttingDown
        if self.in_flight > self.settings.API.MAX_CONCURRENT_REQUESTS:  # the request itself is counted
            raise Overloaded

    @contextmanager
    def upload_slot(self) -> Iterator[None]:
        """One of UPLOAD__MAX_CONCURRENT places, or Overloaded."""
        if self.uploads >= self.settings.UPLOAD.MAX_CONCURRENT:
            raise Overloaded("UPLOAD__MAX_CONCURRENT uploads are being received already. Try again.")
        self.uploads += 1
        UPLOADS_IN_FLIGHT.inc()
        try:
            yield
        finally:
            self.uploads -= 1
            UPLOADS_IN_FLIGHT.dec()


def app_state(request: Request) -> AppState:
    """The state of the application that serves this request."""
    return cast(AppState, request.app.state.trackshift)
