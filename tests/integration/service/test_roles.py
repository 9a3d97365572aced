"""Processes of different roles and sites on one database: who captures what, who is told of, who hands over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from demo.camera import Camera
from tests.conftest import Backends, Service, unique
from tests.kits.service_support import capture, final, own_database, service_on, status, until

TTL = 3.0
UNKNOWN = "01970a2b-5c3d-7e4f-8a9b-0c1d2e3f4a5b"


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


class Fleet:
    """One process that answers, and workers; each has a folder of its own."""

    def __init__(self, backends: Backends, folder: Path, stack: AsyncExitStack) -> None:
        self._backends, self._folder, self._stack = backends, folder, stack
        self.api: httpx.AsyncClient

    def service(self, name: str, **environment: str) -> Service:
        folder = self._folder / name
        folder.mkdir()
        return service_on(self._backends, folder, RTSP__LEASE_TTL=str(TTL), **environment)

    async def start(self, name: str, **environment: str) -> tuple[Service, httpx.AsyncClient]:
        service = self.service(name, **environment)
        return service, await self._stack.enter_async_context(started(service))

    async def workers(self) -> list[dict[str, Any]]:
        answer = await self.api.get("/api/v1/workers")
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["items"]
        return found

    async def worker(self, request_id: str) -> str:
        """The process that runs a capture; waits until there is one."""

        async def look() -> str | None:
            worker: str | None = (await status(self.api, request_id))["worker"]
            return worker

        found: str = await until(look, "somebody runs the capture", 15)
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fleet(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        fleet = Fleet(await own_database(backends), tmp_path_factory.mktemp("roles"), stack)
        _, fleet.api = await fleet.start("api", ROLE="api")
        yield fleet


@pytest.mark.timeout(200)
async def test_a_worker_captures_what_another_process_was_asked_for(fleet: Fleet, camera: Camera) -> None:
    waiting = await capture(fleet.api, unique(), camera.url, capture_mode="single_frame")
    await asyncio.sleep(1.5)  # several polls of a process that captures
    assert (await status(fleet.api, waiting))["status"] == "pending"
    _, worker = await fleet.start("worker", ROLE="worker")
    assert (await final(fleet.api, waiting))["status"] == "completed"
    roles = {each["role"]: each for each in await fleet.workers()}
    assert roles.keys() == {"api", "worker"}
    running = await capture(fleet.api, unique(), camera.url, capture_mode="continuous", fps=5.0)
    assert await fleet.worker(running) == roles["worker"]["worker_id"]
    listed = (await fleet.api.get("/api/v1/ingest/requests", params={"status": "in_progress"})).json()["items"]
    assert [each["worker"] for each in listed] == [roles["worker"]["worker_id"]]

    async def counted() -> bool:
        found = {each["role"]: (each["captures"], each["streams"]) for each in await fleet.workers()}
        return found == {"api": (0, 0), "worker": (1, 1)}

    await until(counted, "the worker tells of its capture and its stream")
    # The worker serves what operators ask for and nothing else.
    for path in ("/health", "/health/live", "/health/ready"):
        assert (await worker.get(path)).status_code == 200
    assert 'ingestion_workers{role="worker",site="default"} 1.0' in (await worker.get("/metrics")).text
    for path in ("/api/v1/workers", "/api/v1/frames", "/docs", "/openapi.json"):
        assert (await worker.get(path)).json()["code"] == "route_not_found"
    await fleet.api.post(f"/api/v1/ingest/requests/{running}/cancel")
    done = await final(fleet.api, running)
    assert (done["status"], done["worker"]) == ("cancelled", None)


@pytest.mark.timeout(200)
async def test_a_camera_is_captured_at_its_site(fleet: Fleet, camera: Camera) -> None:
    camera_id = unique()
    body = {"camera_id": camera_id, "rtsp_url": camera.url, "site": "north"}
    assert (await fleet.api.post("/api/v1/cameras", json=body)).json()["site"] == "north"
    waiting = (await fleet.api.post("/api/v1/ingest/rtsp", json={"camera_id": camera_id})).json()["request_id"]

    async def told() -> bool:
        text = (await fleet.api.get("/metrics")).text
        return 'unclaimable{site="north"} 1.0' in text and 'workers{role="worker",site="north"} 0.0' in text

    await until(told, "a capture that nobody can claim", 25)
    assert (await status(fleet.api, waiting))["status"] == "pending"
    await fleet.start("north", ROLE="worker", WORKERS__SITE="north")
    done = await final(fleet.api, waiting)
    assert done["status"] == "completed"
    # Moved to the site of the first worker, with a capture that waits there then.
    moved = await fleet.api.patch(f"/api/v1/cameras/{camera_id}", json={"site": None})
    assert moved.json()["site"] == "default"
    body = {"camera_id": camera_id, "capture_mode": "continuous"}
    request = (await fleet.api.post("/api/v1/ingest/rtsp", json=body)).json()
    by_site = {each["site"]: each["worker_id"] for each in await fleet.workers() if each["role"] == "worker"}
    assert await fleet.worker(request["request_id"]) == by_site["default"]
    await fleet.api.post(f"/api/v1/ingest/requests/{request['request_id']}/cancel")
    wrong = await fleet.api.post("/api/v1/cameras", json={"camera_id": unique(), "rtsp_url": camera.url, "site": "No rth"})
    assert wrong.status_code == 422


@pytest.mark.timeout(200)
async def test_a_drained_worker_hands_over_and_claims_nothing(fleet: Fleet, camera: Camera) -> None:
    assert (await fleet.api.post(f"/api/v1/workers/{UNKNOWN}/drain")).json()["code"] == "worker_not_found"
    first = next(each for each in await fleet.workers() if (each["role"], each["site"]) == ("worker", "default"))
    request = await capture(fleet.api, unique(), camera.url, capture_mode="continuous", fps=5.0)
    assert await fleet.worker(request) == first["worker_id"]
    await fleet.start("second", ROLE="worker")
    assert (await fleet.api.post(f"/api/v1/workers/{first['worker_id']}/drain")).status_code == 202

    async def moved() -> bool:
        return (await fleet.worker(request)) != str(first["worker_id"])

    await until(moved, "another process runs it", 10)

    async def idle() -> bool:
        found = {each["worker_id"]: each for each in await fleet.workers()}[first["worker_id"]]
        return bool(found["draining"]) and found["captures"] == 0

    await until(idle, "the drained process tells that it is idle")
    more = [await capture(fleet.api, unique(), camera.url, capture_mode="continuous", fps=1.0) for _ in range(3)]
    assert first["worker_id"] not in [await fleet.worker(each) for each in more]
    for each in (request, *more):
        await fleet.api.post(f"/api/v1/ingest/requests/{each}/cancel")
        assert (await final(fleet.api, each))["status"] == "cancelled"
