"""Turns at a pool's connections."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout

from repositories.turns import LONGEST, Turns


async def test_turns_come_in_the_order_of_asking() -> None:
    turns, came = Turns(2, 60), list[int]()

    async def take(number: int) -> None:
        async with turns.one():
            came.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(take(number) for number in range(20)))
    assert came == list(range(20))
    assert turns._left == 2


async def test_who_is_cancelled_takes_no_place_with_him() -> None:
    turns, entered = Turns(1, 60), list[str]()

    async def take(name: str) -> None:
        async with turns.one():
            entered.append(name)

    async with turns.one():
        gone, gone_as_it_came, stays = (asyncio.create_task(take(name)) for name in ("gone", "as it came", "stays"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
    gone_as_it_came.cancel()  # its place was given to it a moment ago
    await asyncio.wait_for(stays, 10)
    assert entered == ["stays"]
    assert turns._left == 1


async def test_a_server_that_hangs_is_told_and_a_busy_one_is_waited_for() -> None:
    clock = asyncio.get_running_loop().time
    turns = Turns(1, 0.05)
    async with turns.one():
        with pytest.raises(PoolTimeout):
            async with turns.one():
                pass
        turns._moved_at = clock() + 100  # places are given back all the time
        began = clock()
        with pytest.raises(PoolTimeout):
            async with turns.one():
                pass
        assert clock() - began >= LONGEST * 0.05
    assert not turns._waiting
    async with turns.one():
        pass
