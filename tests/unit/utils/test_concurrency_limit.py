"""How many at a time, how many wait, and that each permit is given back."""

import asyncio

import pytest

from utils.concurrency_limit import ConcurrencyLimit
from utils.exceptions import Overloaded


async def test_so_many_at_a_time_so_many_wait_and_the_next_is_refused() -> None:
    limit, go_on = ConcurrencyLimit(2, 1, "Full."), asyncio.Event()
    inside: list[int] = []

    async def one(number: int) -> None:
        async with limit.permit():
            inside.append(number)
            await go_on.wait()

    tasks = [asyncio.create_task(one(number)) for number in range(3)]
    while len(inside) < 2:
        await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="Full"):
        await one(9)
    assert inside == [0, 1]
    go_on.set()
    await asyncio.gather(*tasks)
    assert inside == [0, 1, 2]


async def test_a_permit_is_given_back_by_an_error_and_a_place_by_who_stops_waiting() -> None:
    limit = ConcurrencyLimit(1, 1, "Full.")

    async def failing() -> None:
        async with limit.permit():
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await failing()
    async with limit.permit():
        waiting = asyncio.create_task(failing())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        other = asyncio.create_task(failing())  # the place is free again
        await asyncio.sleep(0)
    with pytest.raises(RuntimeError):
        await other
