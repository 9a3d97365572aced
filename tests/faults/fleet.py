"""Faults of a fleet: one process that answers clients, two that capture. The captures of one that dies go on elsewhere."""

from __future__ import annotations

import asyncio
import random
import signal
from typing import Any

from tests.conftest import Service
from tests.faults.faults import scenario
from tests.faults.storm import Storm, storm
from tests.faults.world import Outcome, World, client_of

# The default lease, unlike that of the other scenarios: what a takeover takes is told by it.
LEASE = {"RTSP__LEASE_TTL": "6"}
API, WORKER = {"ROLE": "api", **LEASE}, {"ROLE": "worker", **LEASE}


def _running(made: Storm) -> list[Service]:
    return [each for each in made.workers if each.process is not None and each.process.poll() is None]


async def _another(made: Storm) -> None:
    """A worker takes the place of one that is gone."""
    new = made.world.service(**WORKER)
    made.workers.append(new)
    await asyncio.to_thread(new.start)


@scenario("worker SIGKILL")
async def worker_killed(world: World, rounds: int) -> Outcome:
    async def act(made: Storm) -> None:
        await asyncio.sleep(random.uniform(0.1, 1.0))
        await made.strike()
        await asyncio.to_thread(random.choice(_running(made)).kill)
        await _another(made)

    return await storm(world, "worker SIGKILL", rounds, act, settings=API, workers=2, captures=4)


@scenario("worker SIGTERM")
async def worker_stopped(world: World, rounds: int) -> Outcome:
    async def act(made: Storm) -> None:
        await asyncio.sleep(random.uniform(0.1, 1.0))
        await made.strike()
        assert await asyncio.to_thread(random.choice(_running(made)).stop) == 0
        await _another(made)

    return await storm(world, "worker SIGTERM", rounds, act, settings=API, workers=2, captures=4)


@scenario("worker drained")
async def worker_drained(world: World, rounds: int) -> Outcome:
    """By the API: it hands over, and another one is there before it is stopped."""

    async def act(made: Storm) -> None:
        await _another(made)
        async with client_of(made.service) as client:
            workers = (await client.get("/api/v1/workers")).raise_for_status().json()["items"]
            busy = max((each for each in workers if each["role"] == "worker" and not each["draining"]), key=_captures)
            await made.strike()
            (await client.post(f"/api/v1/workers/{busy['worker_id']}/drain")).raise_for_status()
            await asyncio.sleep(3)
        gone = next(each for each in _running(made) if busy["worker_id"] in each.text())
        assert await asyncio.to_thread(gone.stop) == 0

    return await storm(world, "worker drained", rounds, act, settings=API, workers=2, captures=4)


def _captures(worker: dict[str, Any]) -> int:
    return int(worker["captures"])


@scenario("PostgreSQL restart with 3 workers")
async def postgres_restarted(world: World, rounds: int) -> Outcome:
    async def act(made: Storm) -> None:
        await asyncio.sleep(random.uniform(0.1, 1.0))
        await made.strike()
        await asyncio.to_thread(world.restart_part, "postgres")
        await asyncio.sleep(0.3)  # until the supervisor has seen it
        await asyncio.to_thread(world.part, "postgres")

    return await storm(world, "PostgreSQL restart with 3 workers", rounds, act, settings=API, workers=3, captures=6)


@scenario("worker SIGSTOP 20 s")
async def worker_sleeps(world: World, rounds: int) -> Outcome:
    """The others take over; the one that wakes comes too late, and joins them again."""

    async def act(made: Storm) -> None:
        sleeper = random.choice(_running(made))
        assert sleeper.process is not None
        await made.strike()
        sleeper.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(20)
        finally:
            sleeper.process.send_signal(signal.SIGCONT)

    return await storm(world, "worker SIGSTOP 20 s", rounds, act, settings=API, workers=2, captures=4)


@scenario("api process SIGKILL in an upload")
async def api_killed(world: World, rounds: int) -> Outcome:
    """Captures do not notice; an upload is stored whole or not at all."""

    async def act(made: Storm) -> None:
        await asyncio.sleep(random.uniform(0.05, 1.0))
        await asyncio.to_thread(made.service.kill)
        await asyncio.to_thread(made.service.start)

    return await storm(world, "api process SIGKILL in an upload", rounds, act, settings=API, workers=2, captures=2)


@scenario("rolling restart")
async def rolling_restart(world: World, rounds: int) -> Outcome:
    """One process after the other is stopped and started again, under load."""

    async def act(made: Storm) -> None:
        for each in [made.service, *_running(made)]:
            if each is not made.service:
                await made.strike()
            assert await asyncio.to_thread(each.stop) == 0
            await asyncio.to_thread(each.start)

    return await storm(world, "rolling restart", rounds, act, settings=API, workers=2, captures=4)
