"""Streams that this process holds open for a burst that another process was asked for.

The other process asks for them (`hold`), writes the burst's requests with leases of this process, and lets go when they are
final (`release`). Its commit tells this one to run them, by a notice; a hold looks for them besides. Should it die, the
streams are let go after the time it named, and the leases go the way of all leases. On the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Protocol
from uuid import UUID

from models.values import Claim
from repositories.database import Database
from services.execution.calls import CallAnswer
from services.execution.capture_runner import CaptureRunner
from services.rtsp_capture.streams.stream import Stream, StreamKey
from utils.exceptions import DatabaseUnavailable, Overloaded, RateLimited
from utils.logger import get_logger
from utils.periodic import wait_for
from utils.tasks import cancel_all

log = get_logger(__name__)

MOST = 32  # bursts at once
POLL_INTERVAL = 1.0  # seconds between two polls for a burst's requests, where notices come
POLL_INTERVAL_UNHEARD = 0.1  # where they do not


class Opens(Protocol):
    """How streams are opened for a burst, and waited for (BurstService)."""

    def open(self, keys: Sequence[StreamKey], owner: str | None) -> AbstractAsyncContextManager[list[Stream]]: ...

    async def ready(self, streams: Sequence[Stream]) -> None: ...


class StreamHolds:
    """Answers to `hold`, `release`, and of processes of the version before `begin`."""

    def __init__(self, database: Database, runner: CaptureRunner, opens: Opens, heard: Callable[[], bool]) -> None:
        """`heard`: whether notices come."""
        self._database, self._runner, self._opens, self._heard = database, runner, opens, heard
        self._held: dict[str, asyncio.Task[None]] = {}
        self._written: dict[str, asyncio.Event] = {}  # by group: its requests are there

    async def hold(self, request: Any) -> CallAnswer:
        """Opens the streams; answered when all give pictures or have failed. Raises Overloaded, RateLimited."""
        keys = [StreamKey(*key) for key in request["keys"]]
        if len(self._held) >= MOST or request["captures"] > self._runner.room:
            raise Overloaded("The process that captures these cameras is at its limit. Try again.", retry_after=5)
        if not self._runner.may_run(request["owner"], request["captures"]):
            raise RateLimited("This caller's share (LIMITS__SHARE) of the captures is running already.", retry_after=5)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        name = request["hold"]
        holding = self._hold(keys, request["owner"], request["wait"], request["seconds"], ready, request.get("group_id"))
        task = self._held[name] = asyncio.create_task(holding, name="hold")
        task.add_done_callback(lambda _: self._held.pop(name, None))
        try:
            await ready
        except asyncio.CancelledError:
            task.cancel()
            raise
        return CallAnswer({"owner": self._runner.owner, "follows": True})

    async def _hold(
        self, keys: list[StreamKey], owner: str | None, wait: bool, seconds: float, ready: asyncio.Future[None],
        group_id: str | None,
    ) -> None:  # fmt: skip
        try:
            async with self._opens.open(keys, owner) as streams:
                if wait:
                    await self._opens.ready(streams)
                if not ready.done():
                    ready.set_result(None)
                try:
                    async with asyncio.timeout(seconds):
                        await self._follow(group_id)
                        await asyncio.Event().wait()
                except TimeoutError:
                    log.warning("hold_expired", cameras=len(keys))
        except (Overloaded, RateLimited) as error:
            if not ready.done():
                ready.set_exception(error)
        finally:
            if not ready.done():
                ready.cancel()

    def written(self, group_id: str) -> None:
        """The requests of this burst are there."""
        if (event := self._written.get(group_id)) is not None:
            event.set()

    async def _follow(self, group_id: str | None) -> None:
        """Runs the burst's requests once they are there."""
        if group_id is None:
            return
        event = self._written.setdefault(group_id, asyncio.Event())
        try:
            while True:
                await wait_for(event, POLL_INTERVAL if self._heard() else POLL_INTERVAL_UNHEARD)
                event.clear()
                with suppress(DatabaseUnavailable):
                    if await self._begin(UUID(group_id)):
                        return
        finally:
            self._written.pop(group_id, None)

    async def begin(self, request: Any) -> CallAnswer:
        return CallAnswer({"begun": await self._begin(UUID(request["group_id"]))})

    async def _begin(self, group_id: UUID) -> int:
        """Runs the requests of a burst whose leases are this process's; how many these are."""
        asked = self._runner.now()
        async with self._database.reading() as uow:
            leases = await uow.leases.of_group(group_id, self._runner.owner)
        for lease, age in leases:
            if self._runner.job(lease.request_id) is None:
                claim = Claim(lease.request_id, 1, resumed=False)
                self._runner.begin(claim, lease.camera_id, lease.principal, asked - age)
        return len(leases)

    async def release(self, request: Any) -> CallAnswer:
        await cancel_all(*(self._held[name] for name in request["holds"] if name in self._held))
        return CallAnswer()

    async def close(self) -> None:
        await cancel_all(*self._held.values())
