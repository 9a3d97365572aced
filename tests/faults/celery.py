"""Faults of the Redis that carries Celery's messages, and many captures at once: WORKERS__MODE=celery with real workers.

Each round breaks Redis, posts captures while it is broken, and counts: a capture that is not completed is lost, one with
another number of frames than one is doubled.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from tests.conftest import Service, unique
from tests.faults.workload import RETRYABLE
from tests.faults.world import Outcome, World, client_of
from tests.kits.redis_server import RedisServer
from tests.kits.service_support import final
from tests.kits.tcp_proxy import TcpProxy

POSTED = 20  # captures a round
CAMERAS = 10  # that these are of, so that a busy machine decodes few streams
TOGETHER = 300  # captures of "at once"


@dataclass
class Deployment:
    """A process that answers, and workers, of one Redis."""

    redis: RedisServer
    api: httpx.AsyncClient
    services: list[Service]
    settings: dict[str, str]  # of all of them

    async def _posted(self, camera_id: str, url: str | None) -> str:
        """One capture; tried again with its key where the answer says so, as a client would."""
        body = {"camera_id": camera_id, "capture_mode": "single_frame", **({"rtsp_url": url} if url else {})}
        headers, deadline = {"Idempotency-Key": unique()}, time.monotonic() + 120
        while True:
            answer = await self.api.post("/api/v1/ingest/rtsp", json=body, headers=headers)
            if answer.status_code not in RETRYABLE or time.monotonic() > deadline:
                assert answer.status_code == 202, answer.text
                return str(answer.json()["request_id"])
            await asyncio.sleep(1)

    async def post(self, world: World, count: int, outcome: Outcome, registered: Sequence[str] = ()) -> None:
        """Posts captures of one picture and waits for their ends; `recover`: until the last one's, from its post.

        `registered`: the cameras; without them, new ones.
        """
        began = time.monotonic()
        cameras = registered or [unique() for _ in range(min(count, CAMERAS))]
        url = None if registered else world.camera.url
        posted = await asyncio.gather(*(self._posted(cameras[number % len(cameras)], url) for number in range(count)))
        outcome.acknowledged += len(posted)
        for request_id in posted:
            found = await final(self.api, request_id, 120)
            outcome.lost += found["status"] != "completed"
            outcome.doubled += found["progress"]["stored"] > 1
        took = time.monotonic() - began
        outcome.recover = max(outcome.recover, took)
        if count > len(cameras):
            outcome.ends.append(took)


@asynccontextmanager
async def deployment(world: World, workers: int) -> AsyncIterator[Deployment]:
    folder = world.folder / unique()
    folder.mkdir()
    redis = RedisServer(folder)
    redis.start()
    settings = {
        "WORKERS__MODE": "celery",
        "API__HEALTH_INTERVAL": "0.5",
        "RTSP__LEASE_TTL": "6",  # the default: 300 decodings at once on two cores are slower than the world's 3 s
        "RTSP__CAPTURE_TIMEOUT": "120",
        **redis.environment,
    }
    services = [world.service(ROLE="api", **settings), *(world.service(ROLE="worker", **settings) for _ in range(workers))]
    try:
        await asyncio.gather(*(asyncio.to_thread(service.start) for service in services))
        async with client_of(services[0], 120) as api:
            yield Deployment(redis, api, services, {k: v for k, v in settings.items() if k != "REDIS__PORT"})
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


async def site_cut_off(world: World, rounds: int) -> Outcome:
    """The workers of one of two sites reach the broker no more, and nothing tells them so: packets are swallowed."""
    outcome = Outcome("Celery: broker partition of one site")
    async with deployment(world, 1) as made:
        with TcpProxy("127.0.0.1", made.redis.port) as proxy:
            far = world.service(**made.settings, ROLE="worker", WORKERS__SITE="monza", REDIS__PORT=str(proxy.port))
            made.services.append(far)
            await asyncio.to_thread(far.start)
            cameras = [unique() for _ in range(4)]
            for number, camera_id in enumerate(cameras):
                body = {"camera_id": camera_id, "rtsp_url": world.camera.url, "site": ("default", "monza")[number % 2]}
                (await made.api.post("/api/v1/cameras", json=body)).raise_for_status()
            for _ in range(rounds):
                proxy.stall()
                await made.post(world, POSTED, outcome, cameras)
                proxy.go_on()
                await made.post(world, len(cameras), outcome, cameras)
                outcome.tried += 1
            await asyncio.to_thread(far.stop)  # before its way to the broker ends
    return outcome


async def many_at_once(world: World, rounds: int) -> Outcome:
    """300 captures at the same moment, three workers."""
    outcome = Outcome("Celery: 300 captures at once to 3 workers")
    async with deployment(world, 3) as made:
        for _ in range(rounds):
            await made.post(world, TOGETHER, outcome)
            outcome.tried += 1
    return outcome
