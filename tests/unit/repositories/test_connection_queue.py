"""The queue for a pool's connections."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout

from repositories.connection_queue import LONGEST, ConnectionQueue


async def test_connections_come_in_the_order_of_asking() -> None:
    queue, came = ConnectionQueue(2, 60), list[int]()

    async def take(number: int) -> None:
        async with queue.one():
            came.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(take(number) for number in range(20)))
    assert came == list(range(20))
    assert queue._left == 2


async def test_who_is_cancelled_takes_no_place_with_him() -> None:
    queue, entered = ConnectionQueue(1, 60), list[str]()

    async def take(name: str) -> None:
        async with queue.one():
            entered.append(name)

    async with queue.one():
        gone, gone_as_it_came, stays = (asyncio.create_task(take(name)) for name in ("gone", "as it came", "stays"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
    gone_as_it_came.cancel()  # its place was given to it a moment ago
    await asyncio.wait_for(stays, 10)
    assert entered == ["stays"]
    assert queue._left == 1


async def test_a_server_that_hangs_is_told_and_a_busy_one_is_waited_for() -> None:
    clock = asyncio.get_running_loop().time
    queue = ConnectionQueue(1, 0.05)
    async with queue.one():
        with pytest.raises(PoolTimeout):
            async with queue.one():
                pass
        queue._moved_at = clock() + 100  # places are given back all the time
        began = clock()
        with pytest.raises(PoolTimeout):
            async with queue.one():
                pass
        assert clock() - began >= LONGEST * 0.05
    assert not queue._waiting
    async with queue.one():
        pass
