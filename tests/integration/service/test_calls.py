"""Calls between processes: two of them on one database, with everything real but what they would do with a camera."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from config import DbSettings, Role
from repositories.database import Database
from services.execution.calls import CallAnswer, Calls
from services.execution.health import Degraded
from services.execution.membership import Load, Membership
from services.execution.notices import Notices
from tests.conftest import SECRETS_KEY, Backends
from tests.kits.service_support import own_database, until
from tests.kits.takeover_kit import fetch
from utils.exceptions import AnsweredElsewhere, NoWorker, Overloaded
from utils.secret_box import SecretBox


class Process:
    """What a process of that role has for calls."""

    def __init__(self, db: DbSettings, role: Role, site: str = "default", ttl: float = 6.0) -> None:
        self.database = Database(db, "calls-test")
        self.cameras: dict[str, Any] = {}
        self.drained = False
        self.ended: list[UUID] = []
        self.woken = 0
        self.membership = Membership(self.database, role, site, ttl, self._load, self._drain)
        self.notices = Notices(self.database, self.membership)
        self.calls = Calls(
            self.database, SecretBox([SECRETS_KEY]), self.membership, self.notices, self.ended.append, self._wake
        )

    def _load(self) -> Load:
        return Load(0, len(self.cameras), self.cameras)

    def _drain(self) -> None:
        self.drained = True

    def _wake(self) -> None:
        self.woken += 1


@asynccontextmanager
async def running(process: Process, **handlers: Any) -> AsyncIterator[Process]:
    async with AsyncExitStack() as stack:
        stack.push_async_callback(process.database.close)
        await process.membership.open()
        stack.push_async_callback(process.membership.close)
        process.calls.serve(handlers)
        process.calls.start()
        stack.push_async_callback(process.calls.stop)
        process.notices.start()
        stack.push_async_callback(process.notices.stop)
        yield process


async def test_calls_are_answered_by_the_process_with_the_stream(backends: Backends) -> None:
    db = (await own_database(backends)).db

    async def nobody(_: Any) -> CallAnswer:
        raise AssertionError("not asked")

    async def echo(asked: Any) -> CallAnswer:
        return CallAnswer({"got": asked}, b"\xff\xd8picture")

    async def full(_: Any) -> CallAnswer:
        raise Overloaded("No room.", retry_after=5)

    other, holder, api = Process(db, Role.WORKER), Process(db, Role.WORKER), Process(db, Role.API)
    holder.cameras = {"cam": {"state": "live"}}
    async with running(other, echo=nobody), running(holder, echo=echo, full=full), running(api):
        for each in (holder, api):
            each.membership.heartbeat_now()
        await until(lambda: _told(api, "cam"), "the stream is told")
        ask = api.calls.call
        answer = await ask("echo", {"url": "rtsp://u:secret@h/"}, site="default", camera_id="cam", seconds=5)
        assert (answer.body, answer.picture) == ({"got": {"url": "rtsp://u:secret@h/"}}, b"\xff\xd8picture")
        took = []
        for _ in range(20):
            began = time.perf_counter()
            await ask("echo", 1, site="default", camera_id="cam", seconds=5)
            took.append(time.perf_counter() - began)
        print(f"a call: median {sorted(took)[10] * 1000:.1f} ms, longest {max(took) * 1000:.1f} ms")
        with pytest.raises(AnsweredElsewhere) as refused:
            await ask("full", None, camera_id="cam", seconds=5)
        assert (refused.value.code, refused.value.retryable, refused.value.retry_after) == ("overloaded", True, 5)
        with pytest.raises(AnsweredElsewhere, match="another version"):
            await ask("unheard of", None, to=holder.membership.worker_id, seconds=5)
        assert await fetch(db, "SELECT 1 FROM worker_calls") == []


async def _told(process: Process, camera_id: str) -> bool:
    return camera_id in await process.calls.streams([camera_id])


async def test_nobody_there_a_caller_that_leaves_and_one_that_dies(backends: Backends) -> None:
    db = (await own_database(backends)).db
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow(_: Any) -> CallAnswer:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return CallAnswer()

    worker, api = Process(db, Role.WORKER), Process(db, Role.API)
    async with running(worker, slow=slow), running(api):
        began = time.monotonic()
        with pytest.raises(NoWorker):
            await api.calls.call("slow", None, site="elsewhere", seconds=5)
        assert 5 <= time.monotonic() - began < 9
        asking = asyncio.create_task(api.calls.call("slow", None, site="default", seconds=30))
        await asyncio.wait_for(begun.wait(), 10)
        [row] = await fetch(db, "SELECT request FROM worker_calls")
        assert row["request"].startswith("enc1:")
        asking.cancel()
        await asyncio.wait_for(ended.wait(), 10)  # the work stops with its caller
        assert await fetch(db, "SELECT 1 FROM worker_calls") == []


async def test_who_drains_and_who_does_not_fit(backends: Backends) -> None:
    db = (await own_database(backends)).db
    first, second, api = Process(db, Role.WORKER), Process(db, Role.WORKER, ttl=30), Process(db, Role.API)
    async with running(first), running(second), running(api):
        assert not second.membership.captures_here
        with pytest.raises(Degraded, match="RTSP__LEASE_TTL is 30 here and 6"):
            await second.membership.check()
        assert (await first.membership.check()).endswith("1 capture at the site default")
        began = time.monotonic()
        await api.membership.ask_to_drain(first.membership.worker_id)

        async def drained() -> bool:
            return first.drained

        await until(drained, "it is told to drain", 5, 0.01)
        print(f"told to drain after {time.monotonic() - began:.3f} s")
        assert not first.membership.captures_here
        request = first.membership.worker_id
        first.membership.heartbeat_now()
        await until(lambda: _others(first), "it knows the others")
        first.calls.ended(request)

        async def heard() -> bool:
            return request in api.ended

        await until(heard, "an end is told", 5, 0.01)


async def _others(process: Process) -> bool:
    return not process.membership.alone
