"""Processes of different roles and sites on one database: who captures what, who is told of, who hands over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import pytest_asyncio

from demo.camera import Camera
from tests.conftest import Backends, Service, unique
from tests.kits.service_support import capture, final, own_database, service_on, status, until
from tests.kits.takeover_kit import fetch

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
        self.db = backends.db
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

    async def listed() -> bool:
        found = (await fleet.api.get("/api/v1/ingest/requests", params={"status": "in_progress"})).json()["items"]
        return [each["worker"] for each in found] == [roles["worker"]["worker_id"]]

    await until(listed, "the list names the process that runs it")

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


def size(content: bytes) -> Any:
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture.shape


async def kept(fleet: Fleet, camera: Camera) -> str:
    """A camera that is kept open, and told to be."""
    camera_id = unique()
    body = {"camera_id": camera_id, "rtsp_url": camera.url, "keep_open": True}
    assert (await fleet.api.post("/api/v1/cameras", json=body)).status_code == 201

    async def live() -> bool:
        stream = (await fleet.api.get(f"/api/v1/cameras/{camera_id}")).json()["stream"]
        return stream is not None and stream["state"] == "live"

    await until(live, "its stream is told", 20)
    return camera_id


@pytest.mark.timeout(200)
async def test_all_operations_are_done_by_a_process_that_captures(fleet: Fleet, camera: Camera) -> None:
    one, two = await kept(fleet, camera), await kept(fleet, camera)
    listed = (await fleet.api.get("/api/v1/cameras", params={"limit": 200})).json()["items"]
    assert {each["camera_id"] for each in listed if each["stream"]} >= {one, two}
    taken = await fleet.api.post(f"/api/v1/cameras/{one}/snapshot", headers={"Idempotency-Key": unique()})
    assert taken.status_code == 201, taken.text
    content = await fleet.api.get(f"/api/v1/frames/{taken.json()['frame_id']}/content", params={"proxy": "true"})
    assert size(content.content) == (180, 320, 3)
    source = await fleet.api.post(f"/api/v1/cameras/{one}/snapshot", json={"encoding": "source", "max_staleness": 60})
    assert (source.status_code, source.json()["format"], source.json()["integrity"]) == (201, "h264", "undecoded")
    sharpest = {"pick": {"of": 5, "within_s": 1}}
    picked = await fleet.api.post(f"/api/v1/cameras/{two}/snapshot", json=sharpest)
    assert (picked.status_code, picked.json()["sequence"]) == (201, 0), picked.text
    unopened = unique()  # without a stream: by an ordinary capture
    assert (await fleet.api.post("/api/v1/cameras", json={"camera_id": unopened, "rtsp_url": camera.url})).status_code == 201
    assert (await fleet.api.post(f"/api/v1/cameras/{unopened}/snapshot")).status_code == 201
    latest = await fleet.api.get(f"/api/v1/cameras/{two}/latest.jpg")
    assert (latest.status_code, latest.headers["x-picture-source"]) == (200, "stream")
    assert size(latest.content) == (180, 320, 3)
    burst = await fleet.api.post("/api/v1/ingest/burst", json={"camera_ids": [one, two, unopened]})
    assert (burst.status_code, burst.json()["stored"]) == (201, 3), burst.text
    probes = [
        fleet.api.post(f"/api/v1/cameras/{unopened}/probe"),
        fleet.api.post("/api/v1/cameras/probe", json={"rtsp_url": camera.url, "site": "north"}),
        fleet.api.post("/api/v1/cameras/discover", json={"address": "127.0.0.1:9"}),
    ]
    by_camera, by_url, found = await asyncio.gather(*probes)
    assert (by_camera.json()["reachable"], by_url.json()["reachable"]) == (True, True), by_camera.text + by_url.text
    assert (found.status_code, found.json()["code"]) == (502, "connection_refused")
    calls = [line for line in (await fleet.api.get("/metrics")).text.splitlines() if "worker_calls_total{" in line]
    assert not [line for line in calls if 'outcome="ok"' not in line and "discover" not in line], calls
    assert not [line for line in calls if 'kind="begin"' in line], "the commit itself tells who runs a burst"

    async def gone() -> bool:
        return not await fetch(fleet.db, "SELECT 1 FROM worker_calls")

    await until(gone, "no row of a call is left")


@pytest.mark.timeout(200)
async def test_without_a_process_at_the_site_it_is_503_within_some_seconds(fleet: Fleet, camera: Camera) -> None:
    camera_id = unique()
    body = {"camera_id": camera_id, "rtsp_url": camera.url, "site": "nowhere"}
    assert (await fleet.api.post("/api/v1/cameras", json=body)).json()["stream"] is None
    began = asyncio.get_running_loop().time()
    answers = await asyncio.gather(
        fleet.api.post(f"/api/v1/cameras/{camera_id}/snapshot"),
        fleet.api.post(f"/api/v1/cameras/{camera_id}/probe"),
        fleet.api.post("/api/v1/cameras/discover", json={"site": "nowhere"}),
        fleet.api.post("/api/v1/ingest/burst", json={"camera_ids": [camera_id, (await kept(fleet, camera))]}),
    )
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, "no_worker")}
    assert asyncio.get_running_loop().time() - began < 15
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    latest = await fleet.api.get(f"/api/v1/cameras/{camera_id}/latest.jpg")  # nothing is open, and nothing stored
    assert latest.json()["code"] == "frame_not_found"


@pytest.mark.timeout(200)
async def test_a_camera_is_kept_open_by_one_process_and_then_by_another(fleet: Fleet, camera: Camera) -> None:
    camera_id = await kept(fleet, camera)
    third, _ = await fleet.start("third", ROLE="worker")

    async def keeper() -> str:
        rows = await fetch(fleet.db, "SELECT worker_id::text AS id FROM kept_streams WHERE camera_id = $1", camera_id)
        return str(rows[0]["id"]) if rows else ""

    first = await keeper()
    query = "SELECT count(*) AS n FROM workers WHERE jsonb_exists(cameras, $1)"
    assert [row["n"] for row in await fetch(fleet.db, query, camera_id)] == [1]
    assert (await fleet.api.post(f"/api/v1/workers/{first}/drain")).status_code == 202

    async def moved() -> bool:
        return await keeper() not in ("", first)

    await until(moved, "another process keeps it open", 10)
    assert third.process is not None
    assert third.process.poll() is None
    taken = await fleet.api.post(f"/api/v1/cameras/{camera_id}/snapshot")
    assert taken.status_code == 201, taken.text
