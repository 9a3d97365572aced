"""The sockets' loop: results that nobody waits for any more; packets in batches."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import pytest_asyncio

from services.rtsp_capture.connection.address import parse_rtsp_url
from services.rtsp_capture.connection.io_loop import IoLoop, Linked
from services.rtsp_capture.connection.reader import Connection, ConnectionEnd, ConnectionPlan
from services.rtsp_capture.media.gop_buffer import Packet
from services.rtsp_capture.timing.host_clock import HOST


@pytest_asyncio.fixture
async def io() -> AsyncIterator[IoLoop]:
    io = IoLoop()
    yield io
    await io.close()


async def test_a_result_that_comes_as_its_caller_is_cancelled_is_discarded_once(io: IoLoop) -> None:
    """The work is done there, and the caller is cancelled before its loop has heard of that."""
    done, discarded = threading.Event(), threading.Event()
    results: list[int] = []

    async def work() -> int:
        await asyncio.sleep(0.05)
        done.set()
        return 7

    def discard(result: int) -> None:
        results.append(result)
        discarded.set()

    caller = asyncio.create_task(io.run(work(), discard))
    await asyncio.sleep(0.01)
    assert done.wait(5)  # blocks this loop on purpose
    time.sleep(0.05)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await asyncio.to_thread(discarded.wait, 5)
    assert results == [7]


async def test_work_that_was_cancelled_in_time_leaves_nothing_to_discard(io: IoLoop) -> None:
    stopped = threading.Event()
    results: list[int] = []

    async def work() -> int:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()
        return 7

    caller = asyncio.create_task(io.run(work(), results.append))
    await asyncio.sleep(0.05)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await asyncio.to_thread(stopped.wait, 5)
    assert results == []


async def test_a_result_that_is_awaited_is_not_discarded(io: IoLoop) -> None:
    results: list[int] = []

    async def work() -> int:
        return 7

    assert await io.run(work(), results.append) == 7
    assert results == []


class There:
    """A connection on the sockets' loop that sends what the test says."""

    reported = False

    def __init__(self, plan: ConnectionPlan) -> None:
        self.plan = plan
        self.ended: asyncio.Future[ConnectionEnd] = asyncio.get_running_loop().create_future()

    def send(self, *numbers: int) -> None:
        self.plan.on_packets([Packet(b"%d" % n, n / 25, n == 0, 0.0, 0.0, 0.0, 1) for n in numbers])

    def stop(self) -> None:
        if not self.ended.done():
            self.ended.set_result(ConnectionEnd(None, 0))


async def test_one_that_fails_keeps_no_other_from_its_packets(io: IoLoop) -> None:
    calls: list[int] = []

    def fails() -> None:
        calls.append(0)
        raise ValueError

    io.batches.add(fails)
    io.batches.add(lambda: calls.append(1))
    async with asyncio.timeout(5):
        while calls.count(1) < 2:
            await asyncio.sleep(0.01)
    assert calls[:4] == [0, 1, 0, 1]


async def test_packets_come_in_batches_the_first_at_once_and_all_before_the_end(io: IoLoop) -> None:
    batches: list[list[int]] = []
    plan = ConnectionPlan(
        "cam", parse_rtsp_url("rtsp://127.0.0.1/x"), "tcp", 1, HOST, lambda info: None,
        lambda packets: batches.append([int(packet.data) for packet in packets]),
    )  # fmt: skip
    made: list[There] = []

    async def connect(plan: ConnectionPlan) -> Connection:
        made.append(There(plan))
        return cast(Connection, made[0])

    async def there(work: Any, *arguments: Any) -> None:
        async def call() -> None:
            work(*arguments)

        await io.run(call())

    turns: list[float] = []
    io.batches.add(lambda: turns.append(time.monotonic()))
    linked = await Linked(io, plan).begin(connect)
    await there(made[0].send, 0)
    async with asyncio.timeout(5):
        while not batches:
            await asyncio.sleep(0)
    assert batches == [[0]]
    assert not turns or turns[-1] - turns[0] < 0.05  # it did not wait for a turn
    batches.clear()
    for number in range(1, 6):
        await there(made[0].send, number)
    linked.catch_up()  # what waits is taken without a turn, too
    for number in range(6, 9):
        await there(made[0].send, number)
    async with asyncio.timeout(5):
        while sum(map(len, batches)) < 8:
            await asyncio.sleep(0.01)
    assert [number for batch in batches for number in batch] == list(range(1, 9))
    assert len(batches) <= 4  # one or two turns may lie between; without batches there were eight

    batches.clear()
    linked.catch_up(60)
    await there(made[0].send, 9)
    seen = len(turns)
    async with asyncio.timeout(5):
        while not batches:
            await asyncio.sleep(0)
    assert len(turns) - seen <= 1
    linked.catch_up(0)  # still at once: a snapshot may have been taken a moment ago
    await there(made[0].send, 10)
    await there(made[0].stop)
    await asyncio.wait_for(linked.ended, 5)
    assert [number for batch in batches for number in batch] == [9, 10]
    linked.stop()
