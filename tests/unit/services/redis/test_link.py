"""What a failure of Redis is called, without what Redis said."""

from __future__ import annotations

import asyncio

import pytest
import redis.exceptions as failures

from config import RedisSettings
from services.redis.away import RedisAway
from services.redis.link import RedisLink, reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (failures.AuthenticationError("invalid username-password pair"), "password"),
        (failures.ResponseError("NOAUTH Authentication required."), "password"),
        (failures.ResponseError("WRONGPASS invalid"), "password"),
        (failures.NoPermissionError("this user has no permissions"), "permission"),
        (failures.BusyLoadingError("loading"), "loading"),
        (failures.OutOfMemoryError("command not allowed"), "full"),
        (failures.ReadOnlyError("You can't write against a read only replica."), "read_only"),
        (failures.TimeoutError("reading from 10.0.0.1"), "timeout"),
        (TimeoutError(), "timeout"),
        (failures.ConnectionError("10.0.0.1"), "connection"),
        (ConnectionResetError(), "connection"),
        (RuntimeError("unable to perform operation on <TCPTransport closed=True>"), "connection"),
        (failures.ResponseError("MISCONF"), "refused"),
    ],
)
def test_a_failure_has_one_word(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


async def test_the_first_failure_opens_the_circuit_for_all() -> None:
    link = RedisLink(RedisSettings(HOST="127.0.0.1"))
    link._away = None  # as after a check

    async def fails() -> None:
        raise failures.ReadOnlyError("replica")

    async def never() -> None:
        raise AssertionError("Redis was asked although the circuit is open")

    with pytest.raises(RedisAway, match="read_only"):
        await link.use(fails)
    with pytest.raises(RedisAway, match="read_only"):
        await link.use(never)
    assert link.away == "read_only"


async def test_whoever_waits_goes_on_when_it_opens() -> None:
    link = RedisLink(RedisSettings(HOST="127.0.0.1", TIMEOUT=30))
    link._away = None
    waits = asyncio.create_task(link.use(asyncio.Event().wait))
    await asyncio.sleep(0)
    with pytest.raises(RedisAway, match="connection"):
        await link.use(_fails)
    async with asyncio.timeout(10):
        with pytest.raises(RedisAway):
            await waits


async def _fails() -> bool:
    raise failures.ConnectionError


async def test_three_slow_uses_in_a_row_open_it() -> None:
    """Else a Redis that always answers just in time would slow every request."""
    now = 0.0

    async def takes(seconds: float) -> str:
        nonlocal now
        now += seconds
        return "counted"

    link = RedisLink(RedisSettings(HOST="127.0.0.1", TIMEOUT=0.5), clock=lambda: now)
    link._away = None
    for seconds in (0.11, 0.11, 0.09, 0.11, 0.11):
        assert await link.use(lambda seconds=seconds: takes(seconds)) == "counted"  # type: ignore[misc]
    assert link.away is None
    assert await link.use(lambda: takes(0.11)) == "counted", "what was counted counts"
    with pytest.raises(RedisAway, match="slow"):
        await link.use(lambda: takes(0))


async def test_before_the_first_check_nothing_is_asked() -> None:
    async def never() -> None:
        raise AssertionError("asked")

    with pytest.raises(RedisAway):
        await RedisLink(RedisSettings(HOST="127.0.0.1")).use(never)
