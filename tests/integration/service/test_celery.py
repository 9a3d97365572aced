"""WORKERS__MODE=celery with a real Valkey: workers started both ways are woken, and do without Redis."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from celery import Celery

from demo.camera import Camera
from services.storage_service.service import StorageService
from tests.conftest import ROOT, Backends, Service, unique
from tests.kits.redis_server import RedisServer
from tests.kits.service_support import capture, final, jpeg, own_database, service_on, status, until, upload

LEASE_TTL = "3"  # of all processes: one with another claims nothing


@pytest.fixture(scope="module")
def camera() -> Iterator[Camera]:
    with Camera(size=(320, 180), fps=15, bitrate=300_000) as camera:
        yield camera


@asynccontextmanager
async def started(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    await asyncio.to_thread(service.start)
    try:
        async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
            yield client
    finally:
        if service.process is not None and service.process.poll() is None:
            await asyncio.to_thread(service.stop)


async def metric(client: httpx.AsyncClient, name: str) -> float:
    text = (await client.get("/metrics")).raise_for_status().text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


@dataclass
class Place:
    backends: Backends
    folder: Path
    redis: RedisServer
    api: httpx.AsyncClient

    def worker(self, name: str, program: str = "main.py", **environment: str) -> Service:
        (self.folder / name).mkdir()
        settings = {"ROLE": "worker", "WORKERS__MODE": "celery", "RTSP__LEASE_TTL": LEASE_TTL, **self.redis.environment}
        made = service_on(self.backends, self.folder / name, **settings, **environment)
        made.program = program
        return made

    def post(self, args: list[object]) -> None:
        """A message of housekeeping."""
        app = Celery(broker=f"redis://:{self.redis.password}@127.0.0.1:{self.redis.port}/0", set_as_current=False)
        app.send_task("trackshift.housekeeping", args=args, queue="housekeeping", ignore_result=True)
        app.close()

    async def woken(self, worker: httpx.AsyncClient, camera: Camera) -> None:
        """Until a posted capture has woken the worker: its consumer may still be connecting."""

        async def look() -> bool:
            before = await metric(worker, "ingestion_wakes_received_total")
            await final(self.api, await capture(self.api, unique(), camera.url, capture_mode="single_frame"))
            return await metric(worker, "ingestion_wakes_received_total") > before

        await until(look, "the worker is woken", 60, 0.2)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("celery")
    (folder / "redis").mkdir()
    own = await own_database(backends)
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(RedisServer(folder / "redis"))
        (folder / "api").mkdir()
        settings = {
            "ROLE": "api", "WORKERS__MODE": "celery", "RTSP__LEASE_TTL": LEASE_TTL, "API__HEALTH_INTERVAL": "0.5",
            **redis.environment,
        }  # fmt: skip
        api = await stack.enter_async_context(started(service_on(own, folder / "api", **settings)))
        yield Place(own, folder, redis, api)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("program", ["main.py", "tests/kits/celery_main.py"])
async def test_a_worker_is_woken_and_hands_over_at_its_stop(place: Place, camera: Camera, program: str) -> None:
    """`ROLE=worker python main.py`, and Celery's ordinary command."""
    name = Path(program).stem
    service = place.worker(name, program)
    async with started(service) as worker:
        assert (await worker.get("/health/ready")).status_code == 200
        await place.woken(worker, camera)
        running = await capture(place.api, unique(), camera.url, capture_mode="continuous", fps=5.0)

        async def stored() -> bool:
            found = await status(place.api, running)
            return found["worker"] is not None and found["progress"]["stored"] > 2

        await until(stored, "the capture runs", 30)
        assert service.process is not None
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)

        async def handed_over() -> bool:
            return (await status(place.api, running))["worker"] is None

        await until(handed_over, "the capture is handed over", 10)
        assert time.monotonic() - began < 6  # 2 s, and room for a busy machine
        assert await asyncio.to_thread(service.process.wait, 30) == 0
        await place.api.post(f"/api/v1/ingest/requests/{running}/cancel")
    assert place.redis.password not in service.text()


@pytest.mark.timeout(200)
async def test_housekeeping_has_a_queue_of_its_own(place: Place) -> None:
    """A worker looks because of a message, verifies because of one; an operator posts it by Celery's ordinary command."""
    service = place.worker("housekeeping", SWEEPER__VERIFY_SAMPLE="0")
    async with started(service) as worker:
        # By itself it would look for the second time after a minute.
        looks = 'ingestion_job_runs_total{outcome="ok",task="sweeper"}'

        async def looked() -> bool:
            text = (await worker.get("/metrics")).text
            return any(line.startswith(looks) and float(line.split()[-1]) >= 2 for line in text.splitlines())

        await until(looked, "it looks by a message", 40, 0.2)
        answer = await upload(place.api, unique(), jpeg())
        frame = answer.raise_for_status().json()["frames"][0]
        command = ["-m", "celery", "-A", "services.execution.celery_app", "call", "trackshift.housekeeping"]
        options = ["--queue", "housekeeping", "--args", '["verify", 50]']
        run = await asyncio.create_subprocess_exec(
            sys.executable, *command, *options, cwd=ROOT, env=service.environment, stdout=asyncio.subprocess.DEVNULL
        )
        assert await run.wait() == 0
        await until(lambda: _logged(service, '"event": "verified"'), "it has verified", 30)
        assert "integrity_violation" not in service.text()
        await delete_object(place.backends, frame["storage_path"])
        for _ in range(2):  # one that comes twice
            await asyncio.to_thread(place.post, ["verify", 50])
        await until(lambda: _logged(service, "integrity_violation"), "the lost object is told", 30)
        assert frame["frame_id"] in service.text()


async def _logged(service: Service, text: str) -> bool:
    return text in service.text()


async def delete_object(backends: Backends, key: str) -> None:
    storage = StorageService(backends.storage)
    try:
        assert await storage.delete_many([key]) == []
    finally:
        await storage.close()


@pytest.mark.timeout(250)
async def test_whatever_becomes_of_redis_captures_are_found(place: Place, camera: Camera) -> None:
    """Wiped, full, with another password, killed: each is posted to and found; then messages come again."""
    service = place.worker("faults")

    async def taken(what: str) -> None:
        began = time.monotonic()
        posted = [await capture(place.api, unique(), camera.url, capture_mode="single_frame") for _ in range(3)]
        assert time.monotonic() - began < 5, what  # a post does not wait for a broker that is sick
        for request_id in posted:
            assert (await final(place.api, request_id))["status"] == "completed", what

    async with started(service) as worker:
        await place.woken(worker, camera)
        with place.redis.client() as admin:
            admin.flushall()
            await taken("wiped")
            admin.config_set("maxmemory", "1")
            await taken("full")
            admin.config_set("maxmemory", "0")
            admin.config_set("requirepass", "another")
            admin.execute_command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "yes")
            await taken("password")
            admin.config_set("requirepass", place.redis.password)
        place.redis.kill()
        await taken("killed")
        health = (await place.api.get("/health")).json()
        assert health["status"] == "degraded"
        place.redis.start()
        await place.woken(worker, camera)
        # 60 at once: nobody's message is needed, and none is run twice.
        posts = (capture(place.api, unique(), camera.url, capture_mode="single_frame") for _ in range(60))
        ends = [await final(place.api, request_id, 90) for request_id in await asyncio.gather(*posts)]
        assert {(end["status"], end["progress"]["stored"]) for end in ends} == {("completed", 1)}
