"""The sockets' loop: results that nobody waits for any more; the way of packets from there to here."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import pytest_asyncio

from services.rtsp_capture.connection.batches import Batches
from services.rtsp_capture.connection.camera_address import parse_rtsp_url
from services.rtsp_capture.connection.io_loop import IoLoop, Linked
from services.rtsp_capture.connection.reader import ConnectionEnd, ConnectionPlan, PacketConnection
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
        self.held: list[int] = []
        self.prompt = 0.0

    async def catch_up(self, prompt: float) -> None:
        self.prompt = prompt
        self.send(*self.held)

    def send(self, *numbers: int) -> None:
        self.plan.on_packets([Packet(b"%d" % n, n / 25, n == 0, 0.0, 0.0, 0.0, 1) for n in numbers])

    def stop(self) -> None:
        if not self.ended.done():
            self.ended.set_result(ConnectionEnd(None, 0))


async def test_one_that_fails_keeps_no_other_from_its_packets() -> None:
    calls: list[int] = []

    def fails() -> None:
        calls.append(0)
        raise ValueError

    turns = Batches(asyncio.get_running_loop())
    turns.add(fails)
    turns.add(lambda: calls.append(1))
    async with asyncio.timeout(5):
        while calls.count(1) < 2:
            await asyncio.sleep(0.01)
    assert calls[:4] == [0, 1, 0, 1]


class Linking:
    """A connection of the sockets' loop, linked to ours, and the batches that came from it."""

    def __init__(self, io: IoLoop) -> None:
        self.io = io
        self.batches: list[list[int]] = []
        self.made: list[There] = []
        self.plan = ConnectionPlan(
            "cam", parse_rtsp_url("rtsp://127.0.0.1/x"), "tcp", 1, HOST, lambda info: None,
            lambda packets: self.batches.append([int(packet.data) for packet in packets]),
        )  # fmt: skip

    @property
    def numbers(self) -> list[int]:
        return [number for batch in self.batches for number in batch]

    async def begin(self) -> PacketConnection:
        async def connect(plan: ConnectionPlan) -> PacketConnection:
            self.made.append(There(plan))
            return cast(PacketConnection, self.made[0])

        return await Linked(self.io, self.plan).begin(connect)

    async def there(self, work: Any, *arguments: Any) -> None:
        async def call() -> None:
            work(*arguments)

        await self.io.run(call())


async def test_packets_come_in_order_and_all_before_the_end(io: IoLoop) -> None:
    linking = Linking(io)
    linked = await linking.begin()
    await linking.there(linking.made[0].send, 0)
    async with asyncio.timeout(5):
        while not linking.batches:
            await asyncio.sleep(0)
    await linking.there(linking.made[0].send, 1, 2)
    await linking.there(linking.made[0].send, 3)
    await linking.there(linking.made[0].stop)
    await asyncio.wait_for(linked.ended, 5)
    assert linking.numbers == [0, 1, 2, 3]
    linked.stop()


async def test_what_is_held_there_is_here_once_it_has_caught_up(io: IoLoop) -> None:
    linking = Linking(io)
    linked = await linking.begin()
    linking.made[0].held = [5, 6]
    await linked.catch_up(2.5)
    assert linking.numbers == [5, 6]
    assert linking.made[0].prompt == 2.5
    await linking.there(linking.made[0].stop)
    await asyncio.wait_for(linked.ended, 5)
    await linked.catch_up()  # of one that has ended, nothing


async def test_a_loop_that_is_busy_is_waited_for_no_longer_than_a_turn(io: IoLoop) -> None:
    linking, busy = Linking(io), threading.Event()
    linked = await linking.begin()
    io.call(lambda: busy.wait(30))
    try:
        await asyncio.wait_for(linked.catch_up(), 10)
    finally:
        busy.set()
    linked.stop()
    await asyncio.wait_for(linked.ended, 5)
