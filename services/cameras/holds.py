"""Streams that this process holds open for a burst that another process was asked for.

The other process asks for them (`hold`), writes the burst's requests with leases of this process, asks this one to run
them (`begin`), and lets go when they are final (`release`). Should it die, the streams are let go after the
time it named, and the leases go the way of all leases. On the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol
from uuid import UUID

from models.values import Claim
from repositories.database import Database
from services.execution.calls import Answer
from services.execution.runner import CaptureRunner
from services.rtsp_capture.streams.stream import Stream, StreamKey
from utils.exceptions import Overloaded, RateLimited
from utils.logger import get_logger
from utils.tasks import cancel_all

log = get_logger(__name__)

MOST = 32  # bursts at once


class Opens(Protocol):
    """How streams are opened for a burst, and waited for (BurstService)."""

    def open(self, keys: Sequence[StreamKey], owner: str | None) -> AbstractAsyncContextManager[list[Stream]]: ...

    async def ready(self, streams: Sequence[Stream]) -> None: ...


class StreamHolds:
    """Answers to `hold`, `begin` and `release`."""

    def __init__(self, database: Database, runner: CaptureRunner, opens: Opens) -> None:
        self._database, self._runner, self._opens = database, runner, opens
        self._held: dict[str, asyncio.Task[None]] = {}

    async def hold(self, request: Any) -> Answer:
        """Opens the streams; answered when all give pictures or have failed. Raises Overloaded, RateLimited."""
        keys = [StreamKey(*key) for key in request["keys"]]
        if len(self._held) >= MOST or request["captures"] > self._runner.room:
            raise Overloaded("The process that captures these cameras is at its limit. Try again.", retry_after=5)
        if not self._runner.may_run(request["owner"], request["captures"]):
            raise RateLimited("This caller's share (LIMITS__SHARE) of the captures is running already.", retry_after=5)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        name = request["hold"]
        task = asyncio.create_task(self._hold(name, keys, request["owner"], request["wait"], request["seconds"], ready))
        self._held[name] = task
        try:
            await ready
        except asyncio.CancelledError:
            task.cancel()
            raise
        return Answer({"owner": self._runner.owner})

    async def _hold(
        self, name: str, keys: list[StreamKey], owner: str | None, wait: bool, seconds: float, ready: asyncio.Future[None]
    ) -> None:
        try:
            async with self._opens.open(keys, owner) as streams:
                if wait:
                    await self._opens.ready(streams)
                if not ready.done():
                    ready.set_result(None)
                await asyncio.sleep(seconds)
            log.warning("hold_expired", cameras=len(keys))
        except (Overloaded, RateLimited) as error:
            if not ready.done():
                ready.set_exception(error)
        finally:
            del self._held[name]
            if not ready.done():
                ready.cancel()

    async def begin(self, request: Any) -> Answer:
        """Runs the requests of a burst whose leases are this process's."""
        group_id = UUID(request["group_id"])
        asked = self._runner.now()
        async with self._database.reading() as uow:
            leases = await uow.leases.of_group(group_id, self._runner.owner)
        for lease, age in leases:
            if self._runner.job(lease.request_id) is None:
                claim = Claim(lease.request_id, 1, resumed=False)
                self._runner.begin(claim, lease.camera_id, lease.principal, asked - age)
        return Answer({"begun": len(leases)})

    async def release(self, request: Any) -> Answer:
        await cancel_all(*(self._held[name] for name in request["holds"] if name in self._held))
        return Answer()

    async def close(self) -> None:
        await cancel_all(*self._held.values())
