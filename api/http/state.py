"""The application's state beside its services: whether it stops, the requests in flight, the uploads."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from starlette.requests import Request

from api.http.admission import ByteBudget, UploadGate, UploadMemory, json_budget
from api.http.disk_room import DiskRoom
from config import Settings
from utils.exceptions import Overloaded, ShuttingDown
from utils.pool import WorkerPool
from utils.temp_folder import TempRoot

if TYPE_CHECKING:
    from services.runtime import Services

UPLOAD_IO_THREADS = 4
# Served also when the service is overloaded or stopping: operators must see it.
ALWAYS_SERVED = ("/health", "/health/live", "/health/ready", "/metrics")


class Stopping:
    """An event that is set once, when the stop begins. For the event loop only, not for signal handlers or threads."""

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
    upload_pool: WorkerPool = field(default_factory=lambda: WorkerPool("upload_io", UPLOAD_IO_THREADS))
    uploads: UploadGate = field(init=False)
    json: ByteBudget = field(init=False)
    temp: TempRoot = field(init=False)
    upload_memory: UploadMemory = field(init=False)
    disk: DiskRoom = field(init=False)

    def __post_init__(self) -> None:
        self.uploads = UploadGate(self.settings.UPLOAD)
        self.json = json_budget(self.settings.API)
        self.temp = TempRoot(self.settings.temp_dir)
        self.upload_memory = UploadMemory(self.settings.UPLOAD.MEMORY)
        self.disk = DiskRoom(self.temp, self.settings.UPLOAD.DISK_RESERVE, self.upload_pool)

    def admit(self, path: str) -> None:
        """Raises ShuttingDown or Overloaded when a request for this route may not be served now."""
        if path in ALWAYS_SERVED:
            return
        if self.stopping.is_set():
            raise ShuttingDown
        if self.in_flight > self.settings.API.MAX_CONCURRENT_REQUESTS:  # the request itself is counted
            raise Overloaded


def app_state(request: Request) -> AppState:
    """The state of the application that serves this request."""
    return cast(AppState, request.app.state.trackshift)
