"""first_of: the first one that ends decides, nothing goes on running behind the caller's back."""

from __future__ import annotations

import asyncio

import pytest

from utils.tasks import first_of


async def test_the_work_is_first_and_the_others_have_ended() -> None:
    ended = asyncio.Event()

    async def other() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # an end that takes a turn of the loop is waited for
            ended.set()

    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    task = await first_of(work(), other())
    assert task is not None
    assert task.result() == 7
    assert ended.is_set()


@pytest.mark.parametrize("how", [asyncio.CancelledError, ValueError])
async def test_another_is_first_and_the_work_is_cancelled(how: type[BaseException]) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            raise how from None  # an error made of the cancellation is nobody's business

    assert await first_of(work(), started.wait()) is None
    assert ended.is_set()


async def test_errors_are_those_of_the_work() -> None:
    async def fails() -> None:
        raise ValueError("of the work")

    task = await first_of(fails(), asyncio.Event().wait())
    assert task is not None
    with pytest.raises(ValueError, match="of the work"):
        task.result()


async def test_a_cancelled_caller_leaves_nothing_behind() -> None:
    inner: list[asyncio.Task[None]] = []
    started = asyncio.Event()

    async def work() -> None:
        current = asyncio.current_task()
        assert current is not None
        inner.append(current)
        started.set()
        await asyncio.Event().wait()

    outer = asyncio.create_task(first_of(work(), asyncio.Event().wait()))
    await started.wait()
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    assert inner[0].cancelled()
