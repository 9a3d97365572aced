"""The faults: service, PostgreSQL, S3 server. Each takes the world and how often to try, and gives a line of the table."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import asyncpg

from tests.faults.proxies import S3Fault
from tests.faults.storm import Storm, storm
from tests.faults.world import Outcome, World
from tests.kits.stepped_clock import step

Scenario = Callable[[World, int], Coroutine[Any, Any, Outcome]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    def register(function: Scenario) -> Scenario:
        SCENARIOS[name] = function
        return function

    return register


# -- the service -------------------------------------------------------------------------------------------------


@scenario("service SIGKILL")
async def service_killed(world: World, rounds: int) -> Outcome:
    """At a random moment of an upload storm and of captures; the next start goes on."""

    async def act(made: Storm) -> None:
        await asyncio.sleep(random.uniform(0.05, 1.5))
        await asyncio.to_thread(made.service.kill)
        await asyncio.to_thread(made.service.start)

    return await storm(world, "service SIGKILL", rounds, act)


@scenario("service SIGTERM")
async def service_stopped(world: World, rounds: int) -> Outcome:
    async def act(made: Storm) -> None:
        await asyncio.sleep(random.uniform(0.05, 1.0))
        assert await asyncio.to_thread(made.service.stop) == 0
        await asyncio.to_thread(made.service.start)

    return await storm(world, "service SIGTERM", rounds, act)


@scenario("one of two SIGKILL")
async def owner_killed(world: World, rounds: int) -> Outcome:
    """Two services on one database; the one that runs the captures dies, the other goes on with them."""

    async def act(made: Storm) -> None:
        other = world.service()
        made.services.append(other)
        await asyncio.to_thread(other.start)
        await asyncio.sleep(random.uniform(0.2, 1.0))
        dying, made.service = made.service, other
        await asyncio.to_thread(dying.kill)

    return await storm(world, "one of two SIGKILL", rounds, act)


@scenario("service SIGSTOP 20 s, another takes over")
async def owner_stopped(world: World, rounds: int) -> Outcome:
    """SIGSTOP of the owner until the other has taken over and beyond, then SIGCONT: the old one comes too late."""

    async def act(made: Storm) -> None:
        other = world.service()
        await asyncio.to_thread(other.start)
        sleeper = made.service
        assert sleeper.process is not None
        made.services = [other]  # a stopped one answers nobody
        made.service = other
        sleeper.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(20)
        sleeper.process.send_signal(signal.SIGCONT)
        made.services = [other, sleeper]

    return await storm(world, "service SIGSTOP 20 s, another takes over", rounds, act)


@scenario("clock +2 h, -2 h")
async def clock_stepped(world: World, rounds: int) -> Outcome:
    """The service's clock jumps two hours ahead and back under it."""
    clock = world.folder / "clock"
    step(clock, 0)

    async def act(made: Storm) -> None:
        for ahead in (7200, -7200, 0):
            step(clock, ahead)
            await asyncio.sleep(4)

    return await storm(
        world, "clock +2 h, -2 h", rounds, act, program="tests/kits/stepped_clock.py", STEPPED_CLOCK=str(clock)
    )


# -- PostgreSQL --------------------------------------------------------------------------------------------------


def _part(name: str, how: str, hold: float = 0.0) -> Scenario:
    fault = f"{'PostgreSQL' if name == 'postgres' else 'S3'} {how}"

    async def act(made: Storm) -> None:
        world = made.world
        await asyncio.sleep(random.uniform(0.1, 0.6))
        if how.startswith("SIGSTOP"):
            with world.stopped_part(name):
                await asyncio.sleep(hold)
        elif how == "SIGKILL":
            await asyncio.to_thread(world.kill_part, name)
        else:
            await asyncio.to_thread(world.restart_part, name)
        await asyncio.sleep(0.3)  # until the supervisor has seen it
        await asyncio.to_thread(world.part, name)

    async def run(world: World, rounds: int) -> Outcome:
        return await storm(world, fault, rounds, act)

    SCENARIOS[fault] = run
    return run


_part("postgres", "SIGKILL")
_part("postgres", "SIGSTOP 20 s", 20)
_part("postgres", "restart")


def _cut(fault: str, when: str, pattern: bytes, share: float) -> None:
    async def act(made: Storm) -> None:
        sql = made.world.sql
        sql.pattern, sql.share, sql.cut = pattern, share, when
        broken = sql.broken
        sql.cut_all()  # the text of a statement goes over a connection once
        for _ in range(100):
            await asyncio.sleep(0.05)
            if sql.broken - broken >= 5:
                break
        made.world.heal()
        assert sql.broken > broken, "nothing was cut"

    async def run(world: World, rounds: int) -> Outcome:
        return await storm(world, fault, rounds, act)

    SCENARIOS[fault] = run


_cut("PostgreSQL cut in mid-transaction", "before", b"record_slots", 0.5)
_cut("PostgreSQL cut before COMMIT", "before", b"COMMIT", 0.5)
_cut("PostgreSQL cut at COMMIT, answer lost", "after", b"COMMIT", 0.5)
_cut("PostgreSQL cut after record_slots, answer lost", "after", b"record_slots", 0.5)


@scenario("PostgreSQL max_connections used up")
async def connections_used_up(world: World, rounds: int) -> Outcome:
    async def act(made: Storm) -> None:
        held = []
        try:
            made.world.sql.cut_all()  # the pool has to connect anew
            while True:
                try:
                    held.append(await made.world.connect())
                except (asyncpg.TooManyConnectionsError, asyncpg.PostgresError):
                    break
            await asyncio.sleep(4)
        finally:
            for each in held:
                await each.close()

    return await storm(world, "PostgreSQL max_connections used up", rounds, act)


@scenario("PostgreSQL unreachable (partition)")
async def partition(world: World, rounds: int) -> Outcome:
    """Nothing passes for longer than a lease lasts, no connection is closed."""

    async def act(made: Storm) -> None:
        made.world.sql.stalled = True
        await asyncio.sleep(8)
        made.world.heal()

    return await storm(world, "PostgreSQL unreachable (partition)", rounds, act)


# -- the S3 server -----------------------------------------------------------------------------------------------

_part("object_store", "SIGKILL")
_part("object_store", "SIGSTOP 20 s", 20)


def _s3(fault: str, kind: str, share: float, hold: float) -> None:
    async def act(made: Storm) -> None:
        broken = made.world.store.broken
        made.world.store.fault = S3Fault(kind, share)
        await asyncio.sleep(hold)
        made.world.heal()
        assert made.world.store.broken > broken, "nothing was broken"

    async def run(world: World, rounds: int) -> Outcome:
        return await storm(world, fault, rounds, act)

    SCENARIOS[fault] = run


_s3("S3 hung", "hang", 1.0, 6)
_s3("S3 503 SlowDown", "503 SlowDown", 0.7, 4)
_s3("S3 500", "500 InternalError", 0.7, 4)
_s3("S3 403", "403 AccessDenied", 1.0, 4)
_s3("S3 bucket missing", "404 NoSuchBucket", 1.0, 4)
_s3("S3 clock skew", "403 RequestTimeTooSkewed", 1.0, 4)
_s3("S3 cut in mid-body", "cut_body", 0.7, 4)
_s3("S3 answer lost after the write", "lose_answer", 0.7, 4)

