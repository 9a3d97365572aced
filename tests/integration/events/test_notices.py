"""Readers of events in one process are woken by what another one commits: by notices, and without them by polls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from config import Role
from models.values import SourceType
from services.events import outbox_relay
from services.events.outbox_relay import LogHead, OutboxRelay
from services.execution import membership
from tests.conftest import Backends
from tests.integration.service.test_calls import Process, running
from tests.integration.storage.test_repositories import frame, upload_row
from tests.kits.service_support import own_database, until
from tests.kits.uploads import upload_of

LONG = 600.0  # seconds that nobody waits for


class Reader:
    """A process, its relay, and how far its readers have been told that the log goes."""

    def __init__(self, process: Process) -> None:
        self.process, self.head = process, LogHead()
        self.relay = OutboxRelay(process.database, self.head, LONG, process.notices)

    async def told(self, seq: int) -> bool:
        assert self.head.log_id is not None
        return await self.head.beyond(self.head.log_id, seq, 20)


@asynccontextmanager
async def two(backends: Backends) -> AsyncIterator[tuple[Reader, Reader]]:
    db = (await own_database(backends)).db
    made = [Reader(Process(db, Role.API)) for _ in range(2)]
    async with AsyncExitStack() as stack:
        for each in made:
            await stack.enter_async_context(running(each.process))
            each.relay.start()
            stack.push_async_callback(each.relay.stop)
        for each in made:
            each.process.membership.heartbeat_now()

        async def ready() -> bool:
            return all(not each.process.membership.alone and each.head.log_id is not None for each in made)

        await until(ready, "they know each other")
        yield made[0], made[1]


async def write(writer: Reader) -> None:
    """An upload's events."""
    row = upload_row("paddock")
    upload = upload_of(row, [frame(row.id, 0, camera_id="paddock", source_type=SourceType.UPLOAD)])
    async with writer.process.database.unit_of_work() as uow:
        await uow.requests.add_upload(upload)


async def test_what_another_process_commits_wakes_readers_at_once(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else would find it: no pause of a relay ends by itself, and there are no heartbeats."""

    async def until_woken(event: asyncio.Event, _seconds: float) -> None:
        await event.wait()

    monkeypatch.setattr(outbox_relay, "wait_for", until_woken)
    monkeypatch.setattr(outbox_relay, "READ_FOR", LONG)
    monkeypatch.setattr(membership, "HEARTBEAT_INTERVAL", LONG)
    async with two(backends) as (writer, reader):
        took = []
        for _ in range(5):
            waiting = asyncio.create_task(reader.told(reader.head.seq))

            async def known() -> bool:
                return writer.relay._read_elsewhere

            await until(known, "the writer knows that somebody reads", 10, 0.01)
            began = time.perf_counter()
            await write(writer)
            assert await waiting
            took.append((time.perf_counter() - began) * 1000)
        print(f"from before the commit until the other process's reader was woken: {sorted(took)[2]:.0f} ms")


async def test_without_notices_readers_poll(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_INTERVAL_HEARD", "MAX_INTERVAL_UNREAD"):
        monkeypatch.setattr(outbox_relay, name, LONG)
    monkeypatch.setattr(membership, "HEARTBEAT_INTERVAL", LONG)
    async with two(backends) as (writer, reader):
        await reader.process.notices.stop()  # as behind a pooler
        await writer.relay.stop()  # and nobody else moves what is committed
        waiting = asyncio.create_task(reader.told(reader.head.seq))
        await write(writer)
        assert await waiting
