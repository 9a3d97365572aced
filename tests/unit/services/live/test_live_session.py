"""One connection's queue: what waits is bounded, and a subscription that finds it full loses nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast
from uuid import UUID

import pytest

from models.access import ALL_CAMERAS, ANONYMOUS
from models.values import LogFilter
from services.events.event_log import EventLog, LogPage, Position, Start
from services.live.live_session import MAX_QUEUED, MAX_SUBSCRIPTIONS, LiveSession
from services.live.tail import Tail
from services.reads.serializers.event_log import LogEvent
from utils.exceptions import CursorExpired, DatabaseUnavailable, InvalidRequest

LOG = UUID(int=7)
EVERYTHING = LogFilter(ALL_CAMERAS)


class Log:
    """An event log in memory. `away`: reads of it raise that. `slow`: turns of the loop that an answer takes, to the tail
    and to others."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []
        self.reads = 0
        self.oldest = 1
        self.away = False
        self.slow = (0, 0)
        self._more = asyncio.Event()

    def add(self, count: int = 1) -> None:
        for _ in range(count):
            seq = len(self.events) + 1
            self.events.append(LogEvent(f"{LOG}.{seq}", "frame.stored", b"{}", "pit-1", None))
        self._more.set()

    async def page(self, start: Start, wanted: LogFilter, limit: int, wait: float = 0) -> LogPage:
        self.reads += 1
        await asyncio.sleep(0)
        if self.away:
            raise DatabaseUnavailable
        head = len(self.events)
        if start == "latest":
            return LogPage(Position(LOG, head), behind=False)
        assert isinstance(start, Position)
        if start.seq < self.oldest - 1:
            raise CursorExpired(details={"oldest_cursor": f"{LOG}.{self.oldest - 1}"})
        while wait and start.seq >= len(self.events):
            self._more.clear()
            await self._more.wait()
        found = self.events[start.seq : start.seq + limit]
        last = start.seq + len(found)
        page = LogPage(Position(LOG, last), last < len(self.events), found)
        for _ in range(self.slow[0 if wait else 1]):
            await asyncio.sleep(0)
        return page

    async def beginning(self) -> Position:
        return Position(LOG, self.oldest - 1)


class Client:
    """Reads only while `reading` is set."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.reading = asyncio.Event()
        self.reading.set()
        self.ends: list[int] = []

    async def send(self, message: bytes) -> None:
        await self.reading.wait()
        self.got.append(json.loads(message))

    def end(self, code: int, _reason: str) -> None:
        self.ends.append(code)

    @property
    def seqs(self) -> list[int]:
        return [int(item["cursor"].rpartition(".")[2]) for item in self.got if item["op"] == "event"]


async def settled(seconds: float = 0) -> None:
    await asyncio.sleep(seconds)
    for _ in range(2000):
        await asyncio.sleep(0)


def place() -> tuple[Log, Tail, Client, LiveSession]:
    log, client = Log(), Client()
    tail = Tail(cast(EventLog, log))
    tail.start()
    return log, tail, client, LiveSession(tail, ANONYMOUS, client.send, client.end)


async def test_an_idle_subscription_reads_nothing_and_has_no_task() -> None:
    others = len(asyncio.all_tasks())  # of the loop, which tests share
    log, tail, client, session = place()
    sessions = [session, *(LiveSession(tail, ANONYMOUS, client.send, client.end) for _ in range(50))]
    for one in sessions:
        await one.subscribe("a", EVERYTHING, "latest")
    await settled()
    reads, tasks = log.reads, len(asyncio.all_tasks())
    log.add()
    await settled()
    assert len(client.seqs) == 51
    assert log.reads == reads + 1  # the tail's
    assert len(asyncio.all_tasks()) == tasks == others + 1  # the tail's
    await tail.stop()


async def test_who_finds_the_queue_full_reads_on_from_the_log_and_misses_nothing() -> None:
    log, tail, client, session = place()
    await session.subscribe("a", EVERYTHING, "latest")
    await settled()
    client.reading.clear()
    for _ in range(20):
        log.add(200)
        await settled()
        assert len(session._out) <= MAX_QUEUED
    client.reading.set()
    await settled(0.1)
    log.add()
    await settled(0.1)
    assert client.seqs == list(range(1, 4002))
    await tail.stop()


@pytest.mark.parametrize("slow", [(0, 0), (9, 0), (0, 9), (5, 3)], ids=str)
async def test_from_a_cursor_on_while_more_comes(slow: tuple[int, int]) -> None:
    """Whichever of the tail and the subscription has read further when they meet."""
    log, tail, client, session = place()
    log.add(950)
    log.slow = slow
    await session.subscribe("a", EVERYTHING, Position(LOG, 300))
    for number in range(3000):  # long enough that it catches up meanwhile
        log.add(number % 5 == 0)
        await asyncio.sleep(0)
    await settled(0.1)
    assert client.seqs == list(range(301, 1551))
    assert session.subscriptions["a"].live
    await tail.stop()


async def test_an_expired_cursor_is_told_and_a_database_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.live.live_session.RETRY", 0.02)
    log, tail, client, session = place()
    log.add(10)
    log.oldest = 5
    await session.subscribe("old", EVERYTHING, Position(LOG, 1))
    await settled(0.1)
    error = client.got[-1]
    assert (error["op"], error["code"], error["id"]) == ("error", "cursor_expired", "old")
    assert error["oldest_cursor"] == f"{LOG}.4"
    assert session.subscriptions == {}
    log.away = True
    await session.subscribe("a", EVERYTHING, Position(LOG, 8))
    await settled(0.1)
    assert client.seqs == []
    log.away = False
    await settled(0.2)
    assert client.seqs == [9, 10]
    await tail.stop()


async def test_bounds_and_the_end() -> None:
    log, tail, client, session = place()
    for number in range(MAX_SUBSCRIPTIONS):
        await session.subscribe(str(number), EVERYTHING, "latest")
    with pytest.raises(InvalidRequest):
        await session.subscribe("more", EVERYTHING, "latest")
    for number in range(MAX_SUBSCRIPTIONS):
        session.unsubscribe(str(number))
    with pytest.raises(InvalidRequest):
        session.unsubscribe("0")
    with pytest.raises(InvalidRequest):
        await session.subscribe("a", LogFilter(ALL_CAMERAS, camera_ids=tuple(map(str, range(1001)))), "latest")
    await session.subscribe("a", EVERYTHING, "latest")
    session.close()
    log.add()
    await settled()
    assert client.seqs == []
    assert tail._groups == {} == tail._found
    await tail.stop()
