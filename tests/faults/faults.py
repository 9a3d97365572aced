"""The faults of service, PostgreSQL and S3 server. A scenario takes the world and how often to try: a line of the table.

Those in FAULTS can also be made one after the other under one load: `make test` does, briefly (tests/integration/faults).
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from tests.faults.proxies import S3Fault
from tests.faults.storm import Storm, storm
from tests.faults.world import LEASE_TTL, Outcome, World, becomes
from tests.kits.stepped_clock import step

Scenario = Callable[[World, int], Coroutine[Any, Any, Outcome]]
SCENARIOS: dict[str, Scenario] = {}


@dataclass(frozen=True)
class Fault:
    """`act(storm, seconds)` breaks and mends once; that lasts `seconds` where it can be said, `briefly` in `make test`.

    `settings` of the service and number of `captures`: what the fault needs.
    """

    name: str
    act: Callable[[Storm, float], Awaitable[None]]
    seconds: float = 0.0
    briefly: float = 0.0
    settings: dict[str, str] = field(default_factory=dict)
    captures: int = 2

    async def run(self, world: World, rounds: int) -> Outcome:
        """A scenario: this fault alone."""
        return await storm(world, self.name, rounds, self._once, captures=self.captures, settings=self.settings)

    async def _once(self, made: Storm) -> None:
        await self.act(made, self.seconds)


FAULTS: dict[str, Fault] = {}


def fault(found: Fault) -> None:
    FAULTS[found.name] = found
    SCENARIOS[found.name] = found.run


async def one_after_the_other(world: World, title: str, names: list[str]) -> Outcome:
    """Each of these faults once, briefly, with a recovery after each, under one load on one service."""
    settings = {name: value for each in names for name, value in FAULTS[each].settings.items()}
    left = list(names)

    async def act(made: Storm) -> None:
        now = FAULTS[left.pop(0)]
        print(f"{time.strftime('%X')} {now.name}")  # the last one is the one that a failure is about
        await now.act(made, now.briefly)

    return await storm(world, title, len(names), act, pause=0.1, settings=settings)


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
        world, "clock +2 h, -2 h", rounds, act, program="tests/kits/stepped_clock.py", settings={"STEPPED_CLOCK": str(clock)}
    )


# -- PostgreSQL --------------------------------------------------------------------------------------------------


def _part(name: str, how: str, hold: float = 0.0, briefly: float = 0.0) -> None:
    async def act(made: Storm, seconds: float) -> None:
        world = made.world
        await asyncio.sleep(random.uniform(0.1, 0.6))
        if how.startswith("SIGSTOP"):
            with world.stopped_part(name):
                await asyncio.sleep(seconds)
        elif how == "SIGKILL":
            await asyncio.to_thread(world.kill_part, name)
        else:
            await asyncio.to_thread(world.restart_part, name)
        await asyncio.sleep(0.3)  # until the supervisor has seen it
        await asyncio.to_thread(world.part, name)

    fault(Fault(f"{'PostgreSQL' if name == 'postgres' else 'S3'} {how}", act, hold, briefly))


_part("postgres", "SIGKILL")
_part("postgres", "SIGSTOP 20 s", 20, 5)
_part("postgres", "restart")


def _cut(name: str, when: str, pattern: bytes, share: float) -> None:
    async def act(made: Storm, seconds: float) -> None:
        """One at least is cut; then up to five, within `seconds`."""
        sql = made.world.sql
        before = sql.broken

        def cut(count: int) -> Callable[[], bool]:
            return lambda: sql.broken >= before + count

        sql.pattern, sql.share, sql.sure, sql.cut = pattern, share, 1, when
        for _ in range(8):
            # A driver sends a statement's text once over each connection: new ones bring it again.
            await asyncio.to_thread(sql.cut_all)
            if await becomes(cut(1), 3):
                break
        await becomes(cut(5), seconds)
        made.world.heal()
        assert cut(1)(), "nothing was cut"

    fault(Fault(name, act, seconds=5, briefly=1))


_cut("PostgreSQL cut in mid-transaction", "before", b"record_slots", 0.5)
_cut("PostgreSQL cut before COMMIT", "before", b"COMMIT", 0.5)
_cut("PostgreSQL cut at COMMIT, answer lost", "after", b"COMMIT", 0.5)
_cut("PostgreSQL cut after record_slots, answer lost", "after", b"record_slots", 0.5)


async def _connections_used_up(made: Storm, seconds: float) -> None:
    held = []
    try:
        made.world.sql.cut_all()  # the pool has to connect anew
        while True:
            try:
                held.append(await made.world.connect())
            except (asyncpg.TooManyConnectionsError, asyncpg.PostgresError):
                break
        await asyncio.sleep(seconds)
    finally:
        for each in held:
            await each.close()


async def _partition(made: Storm, seconds: float) -> None:
    """Nothing passes for longer than a lease lasts, no connection is closed."""
    made.world.sql.stalled = True
    await asyncio.sleep(seconds)
    made.world.heal()


fault(Fault("PostgreSQL max_connections used up", _connections_used_up, seconds=4, briefly=2))
fault(Fault("PostgreSQL unreachable (partition)", _partition, seconds=8, briefly=LEASE_TTL + 1))


# -- the S3 server -----------------------------------------------------------------------------------------------

_part("object_store", "SIGKILL")
_part("object_store", "SIGSTOP 20 s", 20, 4)


def _s3(name: str, kind: str, share: float, hold: float, briefly: float = 0.5) -> None:
    async def act(made: Storm, seconds: float) -> None:
        store = made.world.store
        before = store.broken
        store.fault = S3Fault(kind, share)
        await asyncio.sleep(seconds)
        hit = await becomes(lambda: store.broken > before, 10)
        made.world.heal()
        assert hit, "nothing was broken"

    fault(Fault(name, act, hold, briefly))


_s3("S3 hung", "hang", 1.0, 6, 3)
_s3("S3 503 SlowDown", "503 SlowDown", 0.7, 4)
_s3("S3 500", "500 InternalError", 0.7, 4)
_s3("S3 403", "403 AccessDenied", 1.0, 4)
_s3("S3 bucket missing", "404 NoSuchBucket", 1.0, 4)
_s3("S3 clock skew", "403 RequestTimeTooSkewed", 1.0, 4)
_s3("S3 cut in mid-body", "cut_body", 0.7, 4)
_s3("S3 answer lost after the write", "lose_answer", 0.7, 4)
