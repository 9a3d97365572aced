"""Faults of the Redis that carries Celery's messages, and many captures at once: WORKERS__MODE=celery with real workers.

Each round breaks Redis, posts captures while it is broken, and counts: a capture that is not completed is lost, one with
another number of frames than one is doubled.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from tests.conftest import Service, unique
from tests.faults.world import Outcome, World, client_of
from tests.kits.redis_server import RedisServer
from tests.kits.service_support import capture, final

POSTED = 20  # captures a round
TOGETHER = 300  # captures of "at once"


@dataclass
class Deployment:
    """A process that answers, and workers, of one Redis."""

    redis: RedisServer
    api: httpx.AsyncClient
    services: list[Service]

    async def post(self, world: World, count: int, outcome: Outcome) -> None:
        """Posts captures of one picture and waits for their ends; `recover`: until the last one's, from its post."""
        began = time.monotonic()
        posted = await asyncio.gather(
            *(capture(self.api, unique(), world.camera.url, capture_mode="single_frame") for _ in range(count))
        )
        outcome.acknowledged += len(posted)
        for request_id in posted:
            found = await final(self.api, request_id, 120)
            outcome.lost += found["status"] != "completed"
            outcome.doubled += found["progress"]["stored"] > 1
        outcome.recover = max(outcome.recover, time.monotonic() - began)


@asynccontextmanager
async def deployment(world: World, workers: int) -> AsyncIterator[Deployment]:
    folder = world.folder / unique()
    folder.mkdir()
    redis = RedisServer(folder)
    redis.start()
    settings = {"WORKERS__MODE": "celery", "API__HEALTH_INTERVAL": "0.5", **redis.environment}
    services = [world.service(ROLE="api", **settings), *(world.service(ROLE="worker", **settings) for _ in range(workers))]
    try:
        await asyncio.gather(*(asyncio.to_thread(service.start) for service in services))
        async with client_of(services[0], 120) as api:
            yield Deployment(redis, api, services)
    finally:
        for service in services:
            await asyncio.to_thread(service.stop)
        redis.kill()


Broken = Callable[[Deployment, Callable[[], Awaitable[None]]], Awaitable[None]]


async def killed(made: Deployment, work: Callable[[], Awaitable[None]]) -> None:
    made.redis.kill()
    await work()
    made.redis.start()


async def wiped(made: Deployment, work: Callable[[], Awaitable[None]]) -> None:
    wiping = True

    async def wipe() -> None:
        while wiping:
            with made.redis.client() as admin:
                admin.flushall()
            await asyncio.sleep(0.05)

    task = asyncio.create_task(wipe())
    await work()
    wiping = False
    await task


async def stopped(made: Deployment, work: Callable[[], Awaitable[None]]) -> None:
    made.redis.signal(signal.SIGSTOP)
    await asyncio.gather(work(), asyncio.sleep(20))
    made.redis.signal(signal.SIGCONT)


async def full(made: Deployment, work: Callable[[], Awaitable[None]]) -> None:
    with made.redis.client() as admin:
        admin.config_set("maxmemory", "1")
        await work()
        admin.config_set("maxmemory", "0")


async def other_password(made: Deployment, work: Callable[[], Awaitable[None]]) -> None:
    with made.redis.client() as admin:
        admin.config_set("requirepass", "another")
        admin.execute_command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "yes")
        await work()
        admin.config_set("requirepass", made.redis.password)


BROKEN: dict[str, Broken] = {
    "Celery: Redis SIGKILL": killed, "Celery: Redis wiped all the time": wiped, "Celery: Redis SIGSTOP 20 s": stopped,
    "Celery: Redis out of memory": full, "Celery: Redis with another password": other_password,
}  # fmt: skip


async def redis_broken(world: World, rounds: int, name: str) -> Outcome:
    outcome = Outcome(name)
    async with deployment(world, 2) as made:
        for _ in range(rounds):
            await BROKEN[name](made, lambda: made.post(world, POSTED, outcome))
            await made.post(world, 1, outcome)
            outcome.tried += 1
    return outcome


async def many_at_once(world: World, rounds: int) -> Outcome:
    """300 captures at the same moment, three workers."""
    outcome = Outcome("Celery: 300 captures at once to 3 workers")
    async with deployment(world, 3) as made:
        for _ in range(rounds):
            await made.post(world, TOGETHER, outcome)
            outcome.tried += 1
    return outcome
