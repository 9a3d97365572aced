"""The sockets' loop: what becomes of results that nobody waits for any more."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.rtsp_capture.connection.io_loop import IoLoop


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
