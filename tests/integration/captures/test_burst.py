"""One moment of several cameras on real parts: what the pictures show is the truth about the moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from demo.camera import Camera
from demo.faults import FaultProxy
from demo.film import read_frame_number
from demo.sources import capture_time
from services.storage_service.service import StorageService
from tests.conftest import Backends, Service, free_port, running, unique
from tests.kits.capture_kit import FAST, FPS, FRAME, PICTURES, open_kit
from tests.kits.service_support import own_database
from tests.unit.api.support import problem

pytestmark = pytest.mark.paced

BURST = "/api/v1/ingest/burst"
CAMERAS = "/api/v1/cameras"
LATE = 0.15  # s by which receipt times may be late against the film, here; two cameras of one server are alike late


@pytest.fixture(scope="module")
def camera(films: dict[str, Path]) -> Iterator[Camera]:
    with Camera({name: films[name] for name in ("h264", "h264b", "hevc")}, join="burst") as camera:
        yield camera


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def own(backends: Backends) -> Backends:
    return await own_database(backends)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def service(own: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    settings = {f"RTSP__{name}": str(value) for name, value in FAST.items()} | {
        "RTSP__MAX_CONCURRENT_STREAMS": "6", "RTSP__LINGER": "5",
    }  # fmt: skip
    made = Service(own.environment(folder / "data", **settings), folder / "log")
    async with running(made):
        yield made
    assert "Traceback" not in made.text()


@pytest_asyncio.fixture(loop_scope="session")
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as made:
        yield made


async def create(client: httpx.AsyncClient, url: str, **fields: Any) -> str:
    camera_id = unique()
    answer = await client.post(CAMERAS, json={"camera_id": camera_id, "rtsp_url": url, **fields})
    assert answer.status_code == 201, answer.text
    return camera_id


async def is_live(client: httpx.AsyncClient, camera_id: str, ring: float = 0.5) -> None:
    deadline = time.monotonic() + 8
    while True:
        stream = (await client.get(f"{CAMERAS}/{camera_id}")).json()["stream"]
        if stream and stream["state"] == "live" and stream["ring_seconds"] >= ring:
            return
        assert time.monotonic() < deadline, stream
        await asyncio.sleep(0.05)


async def forget(client: httpx.AsyncClient, *camera_ids: str) -> None:
    for camera_id in camera_ids:
        assert (await client.delete(f"{CAMERAS}/{camera_id}")).status_code == 204


async def truth(client: httpx.AsyncClient, frame: dict[str, Any]) -> float:
    """When the camera took the picture, by the number in it."""
    jpeg = (await client.get(f"/api/v1/frames/{frame['frame_id']}/content?proxy=true")).content
    number = read_frame_number(np.asarray(Image.open(BytesIO(jpeg)).convert("RGB"))[:, :, ::-1])
    assert number is not None
    return capture_time(number, FPS, PICTURES, datetime.fromisoformat(frame["timestamp"]).timestamp())


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def check_moment(client: httpx.AsyncClient, burst: dict[str, Any], cameras: list[str]) -> None:
    """All of `cameras` have a frame of one moment, as measured and in truth."""
    frames = {r["camera_id"]: r["frame"] for r in burst["results"] if r["frame"]}
    assert set(frames) == set(cameras)
    at = seconds(burst["at"])
    taken = [await truth(client, frame) for frame in frames.values()]
    told = [seconds(frame["timestamp"]) for frame in frames.values()]
    print(f"\nskew told {burst['skew_ms']} ms, true {(max(taken) - min(taken)) * 1000:.1f} ms")
    assert burst["skew_ms"] == pytest.approx((max(told) - min(told)) * 1000, abs=0.01)
    assert abs((max(taken) - min(taken)) - (max(told) - min(told))) <= FRAME + 0.001
    assert max(taken) - min(taken) <= FRAME + 0.001  # the films' pictures are taken at the same times
    for result in burst["results"]:
        if (frame := result["frame"]) is None:
            assert (result["offset_ms"], result["within_tolerance"]) == (None, False)
            continue
        assert result["offset_ms"] == pytest.approx((seconds(frame["timestamp"]) - at) * 1000, abs=0.01)
        assert abs(result["offset_ms"]) <= FRAME / 2 * 1000 + 1
        assert result["within_tolerance"]
        assert result["error"] is None
        assert result["status"] == "completed"
    assert all(-FRAME / 2 - LATE <= each - at <= FRAME / 2 + 0.01 for each in taken), [each - at for each in taken]


async def test_open_closed_and_dead_cameras_in_one_burst(client: httpx.AsyncClient, camera: Camera) -> None:
    kept = await create(client, camera.url_of("h264"), keep_open=True)
    closed = [await create(client, camera.url_of(name)) for name in ("h264b", "hevc")]
    dead = await create(client, f"rtsp://127.0.0.1:{free_port()}/x")
    await is_live(client, kept)
    before = datetime.now(UTC)
    asked = [closed[0], dead, kept, closed[1]]
    answer = await client.post(BURST, json={"camera_ids": asked, "meta": {"session": "FP1"}})
    took = (datetime.now(UTC) - before).total_seconds()
    assert answer.status_code == 201, answer.text
    burst = answer.json()
    print(f"\na burst of 4 cameras, 2 of them closed and 1 dead: {took:.2f} s")
    assert took < 3  # the dead one is not waited for once the others are open
    assert [r["camera_id"] for r in burst["results"]] == asked
    assert (burst["stored"], burst["complete"], burst["tolerance_ms"]) == (3, False, 100)
    assert before.timestamp() < seconds(burst["at"])
    await check_moment(client, burst, [kept, *closed])
    failed = burst["results"][1]
    assert failed["status"] == "failed"
    assert (failed["error"]["code"], failed["error"]["retryable"]) == ("connection_refused", True)
    assert all(r["frame"]["meta"] == {"session": "FP1"} for r in burst["results"] if r["frame"])

    assert answer.headers["location"] == f"{BURST}/{burst['group_id']}"
    again = (await client.get(answer.headers["location"])).json()
    for result in (*burst["results"], *again["results"]):
        if result["frame"]:
            result["frame"].pop("storage_url")
            result["frame"].pop("url_expires_at")
    assert again == burst
    group = (await client.get(f"/api/v1/ingest/requests?group_id={burst['group_id']}")).json()["items"]
    assert {item["request_id"] for item in group} == {r["request_id"] for r in burst["results"]}
    for item in group:
        assert (item["group_id"], item["capture_mode"]) == (burst["group_id"], "single_frame")
        assert item["progress"]["expected"] == 1 == item["progress"]["stored"] + sum(item["progress"]["dropped"].values())
        assert item["progress"]["in_flight"] == 0
    await forget(client, *asked)


async def test_a_moment_that_has_passed_comes_from_open_streams_only(client: httpx.AsyncClient, camera: Camera) -> None:
    kept = [await create(client, camera.url_of(name), keep_open=True) for name in ("h264", "hevc")]
    with FaultProxy(camera.port) as proxy:
        closed = await create(client, proxy.url("h264"))
        for camera_id in kept:
            await is_live(client, camera_id, 2.5)
        at = datetime.now(UTC) - timedelta(seconds=1.5)
        answer = await client.post(BURST, json={"camera_ids": [*kept, closed], "at": at.isoformat(), "tolerance_ms": 30})
        assert answer.status_code == 201, answer.text
        burst = answer.json()
        assert seconds(burst["at"]) == pytest.approx(at.timestamp(), abs=1e-5)
        await check_moment(client, burst, kept)
        assert burst["results"][2]["error"]["code"] == "timestamp_out_of_range"
        assert burst["results"][2]["error"]["retryable"] is False
        assert proxy.total == 0  # nobody asked it
        early = (at - timedelta(seconds=20)).isoformat()
        told = problem(
            await client.post(BURST, json={"camera_ids": [*kept, closed], "at": early}), 422, "timestamp_out_of_range"
        )
        assert [r["error"]["code"] for r in told["results"]] == ["timestamp_out_of_range"] * 3
        await forget(client, closed, *kept)


async def test_a_moment_to_come(client: httpx.AsyncClient, camera: Camera) -> None:
    cameras = [await create(client, camera.url_of(name)) for name in ("h264", "h264b")]
    at = datetime.now(UTC) + timedelta(seconds=2)
    answer = await client.post(BURST, json={"camera_ids": cameras, "at": at.isoformat()})
    assert answer.status_code == 201, answer.text
    assert 0 < (datetime.now(UTC) - at).total_seconds() < 1.5
    assert answer.json()["complete"]
    await check_moment(client, answer.json(), cameras)
    await forget(client, *cameras)


async def test_no_camera_gives_a_picture(client: httpx.AsyncClient, camera: Camera) -> None:
    with FaultProxy(camera.port) as silent:
        silent.black_hole()
        dead = [await create(client, f"rtsp://127.0.0.1:{free_port()}/x") for _ in range(2)]
        mute = await create(client, silent.url("h264"))
        told = problem(await client.post(BURST, json={"camera_ids": [*dead, mute]}), 502, "connection_refused")
        assert [r["error"]["code"] for r in told["results"]] == ["connection_refused"] * 2 + ["read_timeout"]
        assert [r["camera_id"] for r in told["results"]] == [*dead, mute]
        assert told["retryable"] is True
        kept = (await client.get(f"{BURST}/{told['group_id']}")).json()
        assert (kept["stored"], kept["skew_ms"], kept["complete"]) == (0, None, False)
        problem(await client.post(BURST, json={"camera_ids": [mute, dead[0]]}), 504, "read_timeout")
        await forget(client, *dead, mute)


async def test_what_cannot_be_asked(client: httpx.AsyncClient, camera: Camera) -> None:
    cameras = [await create(client, camera.url_of("h264")) for _ in range(2)]
    unknown = [unique(), unique()]
    asked = [unknown[0], *cameras, unknown[1]]
    told = problem(await client.post(BURST, json={"camera_ids": asked}), 422, "invalid_request")
    assert [(e["pointer"], e["code"]) for e in told["errors"]] == [
        ("/camera_ids/0", "camera_not_found"), ("/camera_ids/3", "camera_not_found"),
    ]  # fmt: skip
    now = datetime.now(UTC)
    for seconds_off in (-40, 11):
        at = (now + timedelta(seconds=seconds_off)).isoformat()
        answer = await client.post(BURST, json={"camera_ids": cameras, "at": at})
        problem(answer, 422, "timestamp_out_of_range")
        assert "results" not in answer.json()
    await client.patch(f"{CAMERAS}/{cameras[0]}", json={"enabled": False})
    problem(await client.post(BURST, json={"camera_ids": cameras}), 409, "camera_disabled")
    many = [await create(client, camera.url_of("h264")) for _ in range(7)]  # MAX_CONCURRENT_STREAMS is 6
    answer = await client.post(BURST, json={"camera_ids": many})
    problem(answer, 503, "overloaded")
    assert "retry-after" in answer.headers
    for camera_id in (*cameras, *many):
        listed = (await client.get(f"/api/v1/ingest/requests?camera_id={camera_id}")).json()["items"]
        assert listed == []  # nothing was begun
    await forget(client, *cameras, *many)


async def test_the_requests_of_a_client_that_is_gone_are_cancelled(client: httpx.AsyncClient, camera: Camera) -> None:
    with FaultProxy(camera.port) as proxy:
        cameras = [await create(client, proxy.url("h264")) for _ in range(2)]
        proxy.refuse()
        at = (datetime.now(UTC) + timedelta(seconds=8)).isoformat()
        with pytest.raises(httpx.ReadTimeout):
            await client.post(BURST, json={"camera_ids": cameras, "at": at}, timeout=0.5)
        deadline = time.monotonic() + 2
        while True:
            listed = [
                item
                for camera_id in cameras
                for item in (await client.get(f"/api/v1/ingest/requests?camera_id={camera_id}")).json()["items"]
            ]
            if [item["status"] for item in listed] == ["cancelled"] * 2:
                break
            assert time.monotonic() < deadline, listed
            await asyncio.sleep(0.05)
        await forget(client, *cameras)


async def test_another_process_takes_none_of_it(
    client: httpx.AsyncClient, camera: Camera, own: Backends, storage: StorageService, tmp_path: Path
) -> None:
    """It has not the streams: of a moment that has passed it could only say that they were not open."""
    async with open_kit(own, storage, tmp_path) as other:
        cameras = [await create(client, camera.url_of(name)) for name in ("h264", "hevc")]
        kept = await client.post(BURST, json={"camera_ids": cameras})  # opens both, which linger
        assert kept.json()["complete"], kept.text
        for _ in range(6):
            at = (datetime.now(UTC) - timedelta(seconds=0.05)).isoformat()
            answer = await client.post(BURST, json={"camera_ids": cameras, "at": at})
            assert answer.status_code == 201, answer.text
            assert answer.json()["complete"], answer.json()
        assert other.services.orchestrator.runner._running == {}
        await forget(client, *cameras)
