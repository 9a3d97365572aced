"""The cameras resource on real parts: `main.py` as a process, PostgreSQL, S3, RTSP cameras and a proxy that misbehaves."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import numpy as np
import psutil
import pytest
import pytest_asyncio
from PIL import Image

from demo.camera import Camera
from demo.faults import FaultProxy
from demo.film import make_film, read_frame_number
from demo.sources import capture_time
from tests.conftest import SECRETS_KEY, Backends, Service, clean_environment, running, unique
from tests.kits.forked import Forked, run_command
from tests.kits.service_support import own_database
from utils.secret_box import SecretBox, key_id, new_key

CAMERAS = "/api/v1/cameras"
FPS = 25
SECONDS = 12.0
PICTURES = round(FPS * SECONDS)
PASSWORD = "p%2Fss%40S3cr3t"
FAST = {
    "RTSP__OPEN_TIMEOUT": "2", "RTSP__READ_TIMEOUT": "4", "RTSP__CAPTURE_TIMEOUT": "3", "RTSP__RECONNECT_DELAY": "0.2",
    "RTSP__RECONNECT_MAX_DELAY": "0.5", "RTSP__LINGER": "0.3", "RTSP__LEASE_TTL": "2",
}  # fmt: skip


@pytest_asyncio.fixture(scope="module")
async def own(backends: Backends) -> Backends:
    """A database of its own: no other test's service opens these cameras."""
    return await own_database(backends)


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Camera]:
    folder = tmp_path_factory.mktemp("films")

    def film(**kind: Any) -> Path:
        return make_film(folder, width=320, height=180, fps=FPS, seconds=SECONDS, bitrate=300_000, **kind)

    films = {"plain": film(), "b": film(bframes=2), "far": film(gop=150), "hevc": film(codec="hevc")}
    with Camera(films, join="burst") as camera:
        yield camera


@pytest.fixture
def proxy(camera: Camera) -> Iterator[FaultProxy]:
    with FaultProxy(camera.port) as proxy:
        yield proxy


@pytest_asyncio.fixture(scope="module")
async def service(own: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    made = Service(own.environment(folder / "data", **FAST), folder / "log")
    async with running(made):
        yield made
    assert "Traceback" not in made.text()
    assert "S3cr3t" not in made.text()


@pytest_asyncio.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as made:
        yield made


async def connect(own: Backends) -> Any:
    db = own.db
    return await asyncpg.connect(
        host=db.HOST, port=db.PORT, user=db.USER, password=db.PASSWORD.get_secret_value() or None, database=db.NAME
    )


async def sql(own: Backends, query: str, *values: Any) -> list[Any]:
    connection = await connect(own)
    try:
        return list(await connection.fetch(query, *values))
    finally:
        await connection.close()


async def create(client: httpx.AsyncClient, url: str, **fields: Any) -> str:
    camera_id = unique()
    answer = await client.post(CAMERAS, json={"camera_id": camera_id, "rtsp_url": url, **fields})
    assert answer.status_code == 201, answer.text
    return camera_id


async def until(look: Callable[[], Awaitable[Any]], seconds: float = 15) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := await look()):
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.05)
    return found


async def in_state(client: httpx.AsyncClient, camera_id: str, state: str | None, seconds: float = 15) -> dict[str, Any]:
    """Waits for the camera's stream to be so; returns the camera."""

    async def look() -> Any:
        found = (await client.get(f"{CAMERAS}/{camera_id}")).json()
        stream = found["stream"]
        return found if (stream["state"] if stream else None) == state else None

    answer: dict[str, Any] = await until(look, seconds)
    return answer


async def capture(client: httpx.AsyncClient, camera_id: str, **fields: Any) -> dict[str, Any]:
    """A capture's final state."""
    body = {"camera_id": camera_id, **fields}
    answer = await client.post("/api/v1/ingest/rtsp", json=body, headers={"Prefer": "wait=30"})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def code(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["code"])


def taken(jpeg: bytes, near: float) -> float:
    """When a film's picture was taken, by the number burnt into it."""
    image = np.asarray(Image.open(BytesIO(jpeg)).convert("RGB"))[:, :, ::-1]
    number = read_frame_number(np.ascontiguousarray(image))
    assert number is not None
    return capture_time(number, FPS, PICTURES, near)


# -- the registry ----------------------------------------------------------------------------------------------


async def test_a_camera_from_birth_to_death(client: httpx.AsyncClient, own: Backends) -> None:
    camera_id = unique()
    url = f"rtsp://user:{PASSWORD}@127.0.0.1:1/x?t={PASSWORD}"
    masked = "rtsp://127.0.0.1:1/x"  # neither user name nor query
    body = {
        "camera_id": camera_id, "name": "Pit", "rtsp_url": url, "transport": "udp",
        "calibration": {"k": [1.5], "d": {"a": 1}}, "default_fps": 0.5, "reader": "opencv", "meta": {"mast": 4},
        "exif_timezone": "Asia/Tokyo", "encoding": "source",
    }  # fmt: skip
    answer = await client.post(CAMERAS, json=body)
    assert (answer.status_code, answer.headers["location"]) == (201, f"{CAMERAS}/{camera_id}")
    made = answer.json()
    assert made == {
        **body, "rtsp_url": masked, "description": None, "location": None, "camera_angle": None, "enabled": True,
        "keep_open": False, "retention_days": None, "site": "default", "stream": None, "created_at": made["created_at"],
        "updated_at": made["updated_at"],
    }  # fmt: skip
    assert code(await client.post(CAMERAS, json={**body, "rtsp_url": "rtsp://127.0.0.1/other"}), 409) == "camera_exists"
    assert (await client.get(f"{CAMERAS}/{camera_id}")).json() == made

    patch: dict[str, Any] = {"name": None, "rtsp_url": masked, "transport": None, "meta": {"x": 1}}
    patch["calibration"] = {"d": {"b": 2}, "k": None}
    changed = (
        await client.patch(
            f"{CAMERAS}/{camera_id}", content=json.dumps(patch), headers={"Content-Type": "application/merge-patch+json"}
        )
    ).json()
    assert changed == {
        **made, "name": None, "transport": "tcp", "calibration": {"d": {"a": 1, "b": 2}}, "meta": {"mast": 4, "x": 1},
        "updated_at": changed["updated_at"],
    }  # fmt: skip
    assert changed["updated_at"] > made["updated_at"]
    (row,) = await sql(own, "SELECT rtsp_url FROM camera_configurations WHERE camera_id = $1", camera_id)
    assert SecretBox([SECRETS_KEY]).open(row[0]) == url  # kept through the patch, and not to be read in the row
    assert "S3cr3t" not in row[0]
    assert "127.0.0.1" not in row[0]

    # Its masked form keeps what is not shown; an empty login says that there is none.
    bare = (await client.patch(f"{CAMERAS}/{camera_id}", json={"rtsp_url": "rtsp://@127.0.0.1:1/x"})).json()
    assert bare["rtsp_url"] == masked
    (row,) = await sql(own, "SELECT rtsp_url FROM camera_configurations WHERE camera_id = $1", camera_id)
    assert SecretBox([SECRETS_KEY]).open(row[0]) == "rtsp://@127.0.0.1:1/x"

    # An upload's EXIF time without an offset is of the camera's time zone.
    taken_at = Image.Exif()
    taken_at.get_ifd(0x8769)[0x9003] = "2026:05:04 15:00:00"
    image = BytesIO()
    Image.new("RGB", (16, 8)).save(image, "WEBP", exif=taken_at)
    form: dict[str, Any] = {"data": {"camera_id": camera_id}, "files": [("files", ("blob", image.getvalue()))]}
    [frame] = (await client.post("/api/v1/ingest/upload", **form)).json()["frames"]
    assert (frame["timestamp"], frame["timestamp_source"]) == ("2026-05-04T06:00:00.000000Z", "exif")
    assert (frame["format"], frame["content_type"]) == ("webp", "image/webp")
    wrong = await client.patch(f"{CAMERAS}/{camera_id}", json={"exif_timezone": "Mars/Olympus"})
    assert code(wrong, 422) == "invalid_request"

    assert (await client.delete(f"{CAMERAS}/{camera_id}")).status_code == 204
    assert code(await client.delete(f"{CAMERAS}/{camera_id}"), 404) == "camera_not_found"
    assert code(await client.get(f"{CAMERAS}/{camera_id}"), 404) == "camera_not_found"
    assert code(await client.patch(f"{CAMERAS}/{camera_id}", json={}), 404) == "camera_not_found"


@pytest.mark.parametrize(
    ("patch", "status", "expected"),
    [
        ({"rtsp_url": None}, 422, "invalid_request"),
        ({"rtsp_url": "rtsp://user:***@127.0.0.1:2/x"}, 422, "invalid_request"),  # the secret goes to no other address
        ({"rtsp_url": "rtsp://8.8.8.8/x"}, 403, "address_not_allowed"),
        ({"rtsp_url": "rtsp://a b/x"}, 422, "invalid_request"),
        ({"camera_id": "other"}, 422, "invalid_request"),
        ({"meta": {"big": "x" * 16_384}}, 422, "invalid_request"),
        ({"default_fps": 99}, 422, "invalid_request"),
    ],
)
async def test_a_patch_that_is_refused_changes_nothing(
    client: httpx.AsyncClient, patch: dict[str, Any], status: int, expected: str
) -> None:
    camera_id = await create(client, f"rtsp://user:{PASSWORD}@127.0.0.1:1/x", meta={"a": 1})
    before = (await client.get(f"{CAMERAS}/{camera_id}")).json()
    assert code(await client.patch(f"{CAMERAS}/{camera_id}", json={"name": "new", **patch}), status) == expected
    assert (await client.get(f"{CAMERAS}/{camera_id}")).json() == before


async def test_addresses_are_judged_when_posted(client: httpx.AsyncClient) -> None:
    for url in ("rtsp://8.8.8.8/x", "rtsp://169.254.169.254/x", "rtsp://[2001:db8::1]/x"):
        body = {"camera_id": unique(), "rtsp_url": url}
        assert code(await client.post(CAMERAS, json=body), 403) == "address_not_allowed"
        assert code(await client.post(f"{CAMERAS}/probe", json={"rtsp_url": url}), 403) == "address_not_allowed"
    masked = {"camera_id": unique(), "rtsp_url": "rtsp://u:***@127.0.0.1/x"}
    assert code(await client.post(CAMERAS, json=masked), 422) == "invalid_request"


async def test_pages_of_cameras(client: httpx.AsyncClient) -> None:
    made = [await create(client, "rtsp://127.0.0.1:1/x") for _ in range(5)]
    found: list[str] = []
    cursor = ""
    while True:
        page = (await client.get(f"{CAMERAS}?limit=2{cursor}")).json()
        assert len(page["items"]) <= 2
        found += [item["camera_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(set(found)) == len(found)
    assert [camera_id for camera_id in found if camera_id in made] == made
    assert code(await client.get(f"{CAMERAS}?cursor=x"), 422) == "invalid_request"
    requests = (await client.get("/api/v1/ingest/requests?limit=1")).json()["next_cursor"]
    if requests:
        assert code(await client.get(f"{CAMERAS}?cursor={requests}"), 422) == "invalid_request"
    head = await client.head(f"{CAMERAS}?limit=2")
    assert (head.status_code, head.content) == (200, b"")


async def test_many_create_the_same_and_one_does(client: httpx.AsyncClient) -> None:
    camera_id = unique()
    bodies = [{"camera_id": camera_id, "rtsp_url": f"rtsp://127.0.0.1:{port}/x"} for port in range(1, 9)]
    answers = await asyncio.gather(*(client.post(CAMERAS, json=body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7


# -- captures of a registered camera ---------------------------------------------------------------------------


async def test_a_capture_takes_url_fps_and_transport_from_the_camera(
    client: httpx.AsyncClient, proxy: FaultProxy, own: Backends
) -> None:
    proxy.require_auth("user", "p/ss@S3cr3t")
    camera_id = await create(client, proxy.url("plain", f"user:{PASSWORD}"), default_fps=4, transport="tcp")
    await client.patch(f"{CAMERAS}/{camera_id}", json={"rtsp_url": proxy.url("plain"), "name": "kept"})
    done = await capture(client, camera_id, capture_mode="continuous", capture_duration=1.5, sampling="exact")
    assert (done["status"], done["progress"]["expected"]) == ("completed", 6)
    assert done["source"]["url"] == proxy.url("plain")
    rows = await sql(own, "SELECT rtsp_url, params FROM ingestion_requests WHERE camera_id = $1", camera_id)
    assert all(row["rtsp_url"].startswith("enc1:") for row in rows)
    await client.patch(f"{CAMERAS}/{camera_id}", json={"transport": "udp", "enabled": False})
    assert code(await client.post("/api/v1/ingest/rtsp", json={"camera_id": camera_id}), 409) == "camera_disabled"
    assert code(await client.post(f"{CAMERAS}/{camera_id}/snapshot"), 409) == "camera_disabled"
    await client.patch(f"{CAMERAS}/{camera_id}", json={"enabled": None, "rtsp_url": "rtsp://127.0.0.1:1/x"})
    asked = await client.post("/api/v1/ingest/rtsp", json={"camera_id": camera_id})
    assert asked.status_code == 202
    (row,) = await sql(own, "SELECT params FROM ingestion_requests WHERE id = $1", asked.json()["request_id"])
    assert json.loads(row["params"])["transport"] == "udp"
    unknown = await client.post("/api/v1/ingest/rtsp", json={"camera_id": unique()})
    assert code(unknown, 422) == "invalid_request"


async def test_a_camera_in_use_is_not_deleted_and_frames_outlive_it(client: httpx.AsyncClient, camera: Camera) -> None:
    camera_id = await create(client, camera.url_of("plain"))
    asked = (
        await client.post("/api/v1/ingest/rtsp", json={"camera_id": camera_id, "capture_mode": "continuous", "fps": 5})
    ).json()
    status = f"/api/v1/ingest/status/{asked['request_id']}"

    async def stored() -> bool:
        return bool((await client.get(status)).json()["progress"]["stored"])

    assert code(await client.delete(f"{CAMERAS}/{camera_id}"), 409) == "camera_in_use"  # pending
    await until(stored)
    assert code(await client.delete(f"{CAMERAS}/{camera_id}"), 409) == "camera_in_use"
    assert (await client.get(f"{CAMERAS}/{camera_id}")).json()["stream"]["jobs"] == 1
    await client.post(f"/api/v1/ingest/requests/{asked['request_id']}/cancel")
    await client.get(status, headers={"Prefer": "wait=20"})
    assert (await client.delete(f"{CAMERAS}/{camera_id}")).status_code == 204
    frames = (await client.get(f"/api/v1/frames?camera_id={camera_id}")).json()["items"]
    assert frames
    assert (await client.get(f"/api/v1/frames/{frames[0]['frame_id']}/content?proxy=true")).content[:2] == b"\xff\xd8"
    # The id is free again, for another camera.
    assert (await client.post(CAMERAS, json={"camera_id": camera_id, "rtsp_url": "rtsp://127.0.0.1:1/y"})).status_code == 201


async def test_captures_and_deletes_at_once_leave_no_capture_without_its_camera(
    client: httpx.AsyncClient, camera: Camera
) -> None:
    for _ in range(6):
        camera_id = await create(client, "rtsp://127.0.0.1:1/x")
        asked, deleted = await asyncio.gather(
            client.post("/api/v1/ingest/rtsp", json={"camera_id": camera_id}), client.delete(f"{CAMERAS}/{camera_id}")
        )
        assert (asked.status_code, deleted.status_code) in ((202, 409), (404, 204), (422, 204)), asked.text
        if asked.status_code == 202:
            await client.post(f"/api/v1/ingest/requests/{asked.json()['request_id']}/cancel")


# -- probe -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "codec"), [("plain", "h264"), ("b", "h264"), ("hevc", "hevc")])
async def test_a_probe_measures_the_camera(client: httpx.AsyncClient, camera: Camera, name: str, codec: str) -> None:
    answer = await client.post(f"{CAMERAS}/probe", json={"rtsp_url": camera.url_of(name)})
    found = answer.json()
    assert answer.status_code == 200
    assert (found["reachable"], found["code"], found["codec"]) == (True, None, codec)
    assert (found["width"], found["height"]) == (320, 180)
    assert found["fps"] == pytest.approx(FPS, abs=0.05)
    assert found["keyframe_interval_s"] == pytest.approx(1.0, abs=0.01)
    assert found["bitrate_bps"] == pytest.approx(300_000, rel=0.5)
    assert found["clock"] == {"source": "receipt", "offset_ms": None}
    assert 0 < found["connect_ms"] < found["first_frame_ms"] < 5000
    assert 50 < found["mb_per_day_at_1fps"] < 5000
    assert any("B-frames" in line for line in found["warnings"]) is (name == "b")
    assert len(found["warnings"]) == (name == "b")


async def test_a_probe_of_a_registered_camera_finds_keyframes_far_apart(client: httpx.AsyncClient, camera: Camera) -> None:
    camera_id = await create(client, camera.url_of("far"), enabled=False)
    found = (await client.post(f"{CAMERAS}/{camera_id}/probe")).json()
    assert found["reachable"]
    assert found["keyframe_interval_s"] == pytest.approx(6.0, abs=0.05)
    assert "150 pictures" in found["warnings"][0]


async def test_what_a_probe_says_of_cameras_that_fail(client: httpx.AsyncClient, proxy: FaultProxy) -> None:
    async def probe(url: str) -> tuple[bool, str]:
        answer = await client.post(f"{CAMERAS}/probe", json={"rtsp_url": url})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["detail"]
        assert "S3cr3t" not in answer.text
        return found["reachable"], found["code"]

    assert await probe("rtsp://127.0.0.1:1/x") == (False, "connection_refused")
    assert await probe("rtsp://camera.invalid/x") == (False, "dns_failure")
    assert await probe(proxy.url("nothing")) == (False, "stream_not_found")
    proxy.require_auth("user", "other")
    assert await probe(proxy.url("plain", f"user:{PASSWORD}")) == (False, "unauthorized_camera")
    proxy.clear()
    proxy.answer(302, "Moved", {"Location": "rtsp://127.0.0.1:2/"})
    assert await probe(proxy.url("plain")) == (False, "redirect_refused")
    proxy.clear()
    proxy.black_hole()
    assert await probe(proxy.url("plain")) == (False, "read_timeout")


async def test_probes_leave_nothing_behind(client: httpx.AsyncClient, service: Service, camera: Camera) -> None:
    """Clients that go away before the answer: no connection to the camera stays, and no thread for each of them."""
    assert service.process is not None
    process = psutil.Process(service.process.pid)
    body = {"rtsp_url": camera.url_of("plain")}

    async def abandoned() -> None:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(f"{CAMERAS}/probe", json=body, timeout=0.7)

    async def no_connection() -> bool:
        await asyncio.sleep(0.1)  # looking costs the machine 50 ms
        return not [each for each in process.net_connections("tcp") if each.raddr and each.raddr.port == camera.port]

    async def threads_after(rounds: int) -> int:
        for _ in range(rounds):
            await asyncio.gather(*(abandoned() for _ in range(12)))
        await until(no_connection, 30)
        assert (await client.post(f"{CAMERAS}/probe", json=body)).json()["reachable"]  # every turn was given back
        await until(no_connection, 30)
        return int(process.num_threads())

    grown = await threads_after(1)  # the pools have their threads
    # Each round runs at least four probes. A pool may still gain a thread or two.
    assert await threads_after(3) < grown + 4


async def test_too_many_probes_at_once_are_refused(client: httpx.AsyncClient, proxy: FaultProxy) -> None:
    proxy.black_hole()
    body = {"rtsp_url": proxy.url("plain")}
    answers = await asyncio.gather(*(client.post(f"{CAMERAS}/probe", json=body) for _ in range(26)))
    codes = [answer.status_code for answer in answers]
    assert codes.count(503) == 26 - 4 - 16
    assert codes.count(200) == 20
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 503)


# -- snapshot --------------------------------------------------------------------------------------------------


async def test_a_snapshot_of_a_camera_that_is_not_open(client: httpx.AsyncClient, camera: Camera) -> None:
    camera_id = await create(client, camera.url_of("plain"))
    answer = await client.post(f"{CAMERAS}/{camera_id}/snapshot", json={"meta": {"session": "FP1"}, "jpeg_quality": 60})
    assert answer.status_code == 201, answer.text
    frame = answer.json()
    assert answer.headers["location"] == f"/api/v1/frames/{frame['frame_id']}"
    assert (frame["camera_id"], frame["sequence"], frame["meta"]) == (camera_id, 0, {"session": "FP1"})
    assert (await client.get(answer.headers["location"])).json()["sha256"] == frame["sha256"]
    request = (await client.get(f"/api/v1/ingest/status/{frame['request_id']}")).json()
    assert (request["status"], request["capture_mode"]) == ("completed", "single_frame")


async def test_snapshots_of_an_open_stream_are_fresh_and_quick(client: httpx.AsyncClient, camera: Camera) -> None:
    camera_id = await create(client, camera.url_of("far"), keep_open=True)
    await in_state(client, camera_id, "live")
    await asyncio.sleep(1.5)
    took = []
    for _ in range(5):
        began = time.monotonic()
        answer = await client.post(f"{CAMERAS}/{camera_id}/snapshot")
        took.append(time.monotonic() - began)
        frame = answer.json()
        jpeg = (await client.get(f"/api/v1/frames/{frame['frame_id']}/content?proxy=true")).content
        stored_at = datetime.fromisoformat(frame["stored_at"]).timestamp()
        assert stored_at - taken(jpeg, stored_at) < 0.7
    assert sorted(took)[2] < 1.0, took
    # Keyframes are 6 s apart: the last one will do when that is allowed, and is not taken when it is too old.
    await asyncio.sleep(0.5)
    ages = []
    for staleness in (30, 0.001):
        frame = (await client.post(f"{CAMERAS}/{camera_id}/snapshot", json={"max_staleness": staleness})).json()
        at = datetime.fromisoformat(frame["timestamp"])
        ages.append((datetime.fromisoformat(frame["stored_at"]) - at).total_seconds())
        stale = frame
        if staleness == 30:
            again = (await client.post(f"{CAMERAS}/{camera_id}/snapshot", json={"max_staleness": 30})).json()
            if again["timestamp"] == frame["timestamp"]:
                assert again["sha256"] == stale["sha256"]
    assert ages[1] < 0.7
    assert ages[0] < 6.7
    await client.delete(f"{CAMERAS}/{camera_id}")


async def test_a_snapshots_failures(client: httpx.AsyncClient, proxy: FaultProxy) -> None:
    assert code(await client.post(f"{CAMERAS}/{unique()}/snapshot"), 404) == "camera_not_found"
    camera_id = await create(client, "rtsp://camera.invalid/x")
    assert code(await client.post(f"{CAMERAS}/{camera_id}/snapshot"), 502) == "dns_failure"
    await client.patch(f"{CAMERAS}/{camera_id}", json={"rtsp_url": proxy.url("plain", f"user:{PASSWORD}")})
    proxy.require_auth("user", "other")
    refused = await client.post(f"{CAMERAS}/{camera_id}/snapshot")
    assert code(refused, 502) == "unauthorized_camera"
    assert refused.json()["retryable"] is False
    proxy.clear()
    proxy.black_hole()
    assert code(await client.post(f"{CAMERAS}/{camera_id}/snapshot"), 504) == "read_timeout"
    assert (await client.get(f"/api/v1/frames?camera_id={camera_id}")).json()["items"] == []


# -- keep_open -------------------------------------------------------------------------------------------------


async def test_a_kept_stream_and_its_states(
    client: httpx.AsyncClient, service: Service, proxy: FaultProxy, own: Backends
) -> None:
    camera_id = await create(client, proxy.url("plain"), keep_open=True)
    live = (await in_state(client, camera_id, "live"))["stream"]
    assert (live["codec"], live["width"], live["height"], live["fps"]) == ("h264", 320, 180, pytest.approx(25))
    assert (live["jobs"], live["reconnects"], live["last_error"]) == (0, 0, None)
    await asyncio.sleep(2)
    later = (await client.get(f"{CAMERAS}/{camera_id}")).json()["stream"]
    assert later["since"] == live["since"]
    assert later["ring_seconds"] > 1.5
    assert later["ring_bytes"] > live["ring_bytes"]
    assert datetime.now(UTC) - datetime.fromisoformat(later["last_packet_at"]) < timedelta(seconds=1)
    listed = (await client.get(f"{CAMERAS}?limit=200")).json()["items"]
    assert next(item for item in listed if item["camera_id"] == camera_id)["stream"]["state"] == "live"

    proxy.freeze()
    await in_state(client, camera_id, "stalled")
    assert 'ingestion_streams{state="stalled"} 1.0' in (await client.get("/metrics")).text
    proxy.thaw()
    await in_state(client, camera_id, "live")

    proxy.refuse()
    proxy.drop_connections(reset=True)
    down = (await in_state(client, camera_id, "backing_off"))["stream"]
    assert down["last_error"]["code"] in ("stream_ended", "connection_refused")
    proxy.listen()
    back = (await in_state(client, camera_id, "live"))["stream"]
    assert back["reconnects"] == 1
    assert back["last_error"] is not None

    await asyncio.sleep(0.2)
    lines = [json.loads(line) for line in service.text().splitlines() if '"stream_state"' in line]
    told = [line["state"] for line in lines if line["camera_id"] == camera_id]
    # Each change is one line, those of tries in vain but the first are not written.
    assert told == ["connecting", "live", "stalled", "live", "backing_off", "connecting", "live"], lines
    assert 'ingestion_streams{state="stalled"} 0.0' in (await client.get("/metrics")).text

    # What another process writes is followed too.
    await sql(own, "UPDATE camera_configurations SET enabled = false WHERE camera_id = $1", camera_id)
    await in_state(client, camera_id, None)

    async def closed() -> bool:
        return proxy.open == 0

    await until(closed, 2)
    await client.patch(f"{CAMERAS}/{camera_id}", json={"enabled": True})
    await in_state(client, camera_id, "live", 5)
    await client.patch(f"{CAMERAS}/{camera_id}", json={"keep_open": False})
    await in_state(client, camera_id, None, 5)
    await client.patch(f"{CAMERAS}/{camera_id}", json={"keep_open": True})
    await in_state(client, camera_id, "live", 5)
    await client.patch(f"{CAMERAS}/{camera_id}", json={"rtsp_url": proxy.url("b")})  # another stream

    async def moved() -> bool:
        stream = (await client.get(f"{CAMERAS}/{camera_id}")).json()["stream"]
        asked = any(request.uri.endswith("/b") for request in proxy.requests)
        return bool(stream) and stream["state"] == "live" and proxy.playing == 1 and asked

    await until(moved)
    assert (await client.delete(f"{CAMERAS}/{camera_id}")).status_code == 204  # a kept stream is no capture

    await until(closed)


async def test_a_capture_shares_the_kept_stream(client: httpx.AsyncClient, proxy: FaultProxy) -> None:
    camera_id = await create(client, proxy.url("plain"), keep_open=True)
    await in_state(client, camera_id, "live")
    done = await capture(client, camera_id, capture_mode="continuous", capture_duration=1, fps=5)
    assert done["status"] == "completed"
    assert proxy.playing == 1
    kept = (await client.get(f"{CAMERAS}/{camera_id}")).json()["stream"]
    assert (kept["state"], kept["reconnects"]) == ("live", 0)
    await client.delete(f"{CAMERAS}/{camera_id}")


# -- the past --------------------------------------------------------------------------------------------------


@pytest.mark.paced
async def test_pictures_of_the_past_come_from_the_ring(client: httpx.AsyncClient, camera: Camera) -> None:
    async def past(name: str) -> None:
        camera_id = await create(client, camera.url_of(name), keep_open=True)
        began = (await in_state(client, camera_id, "live"))["stream"]
        await asyncio.sleep(4.5)
        for ago in (3.0, 1.234, 0.05):
            at = datetime.now(UTC) - timedelta(seconds=ago)
            done = await capture(client, camera_id, frame_timestamp=at.isoformat())
            assert done["status"] == "completed", done["error"]
            frame = done["frames"][0]
            told = datetime.fromisoformat(frame["timestamp"])
            assert abs((told - at).total_seconds()) <= 0.5 / FPS + 0.002
            jpeg = (await client.get(f"/api/v1/frames/{frame['frame_id']}/content?proxy=true")).content
            # The burnt-in number tells the truth; receipt times are late by the way from the camera.
            assert abs(taken(jpeg, at.timestamp()) - at.timestamp()) < 0.25
        early = datetime.fromisoformat(began["since"]) - timedelta(seconds=12)  # before the stream was open
        if datetime.now(UTC) - early < timedelta(seconds=31):
            failed = await capture(client, camera_id, frame_timestamp=early.isoformat())
            assert (failed["status"], failed["error"]["code"]) == ("failed", "timestamp_out_of_range")
            assert failed["progress"]["dropped"] == {"no_picture": 1}
        await client.delete(f"{CAMERAS}/{camera_id}")

    await asyncio.gather(*(past(name) for name in ("plain", "b", "far")))


async def test_the_past_of_a_camera_that_was_not_open(client: httpx.AsyncClient, proxy: FaultProxy) -> None:
    camera_id = await create(client, proxy.url("plain"))
    at = datetime.now(UTC) - timedelta(seconds=1)
    failed = await capture(client, camera_id, frame_timestamp=at.isoformat())
    assert (failed["status"], failed["error"]["code"]) == ("failed", "timestamp_out_of_range")
    assert failed["error"]["retryable"] is False
    assert proxy.total == 0  # nobody was asked
    for far in (timedelta(seconds=-33), timedelta(hours=25)):
        body = {"camera_id": camera_id, "frame_timestamp": (datetime.now(UTC) + far).isoformat()}
        assert code(await client.post("/api/v1/ingest/rtsp", json=body), 422) == "timestamp_out_of_range"


# -- keys ------------------------------------------------------------------------------------------------------


def _rotate(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return run_command(environment, "secrets", "rotate")


@pytest.mark.paced
async def test_keys_lost_found_and_rotated(backends: Backends, camera: Camera, tmp_path: Path) -> None:
    own = await own_database(backends)
    old, new = new_key(), new_key()

    def environment(*keys: str) -> dict[str, str]:
        return own.environment(tmp_path / "data", **FAST, SECRETS__KEYS=json.dumps(keys))

    log = tmp_path / "log"
    url = camera.url_of("plain").replace("rtsp://", f"rtsp://user:{PASSWORD}@")
    # A row from before encryption.
    await sql(own, "INSERT INTO camera_configurations (camera_id, rtsp_url) VALUES ('plain', $1)", url)
    async with running(Service(environment(old), log)) as client:

        async def sealed() -> bool:
            rows = await sql(own, "SELECT rtsp_url FROM camera_configurations WHERE rtsp_url NOT LIKE 'enc1:%'")
            return not rows

        await until(sealed)
        assert (await client.post(f"{CAMERAS}/plain/snapshot")).status_code == 201
    # The wrong key: it starts, says so, refuses what needs the secret, shows what does not, and claims nothing.
    request_id = "01a20445-2ea2-723a-bbb3-2eb920ecb129"
    row = await sql(own, "SELECT rtsp_url, params FROM ingestion_requests")
    await sql(
        own,
        "INSERT INTO ingestion_requests (id, camera_id, source_type, capture_mode, status, rtsp_url, params)"
        " VALUES ($1, 'plain', 'rtsp', 'single_frame', 'pending', $2, $3)",
        request_id, row[0]["rtsp_url"], row[0]["params"],
    )  # fmt: skip
    await sql(own, "INSERT INTO capture_leases (request_id, camera_id) VALUES ($1, 'plain')", request_id)
    wrong = Service(environment(new), log)
    async with running(wrong) as client:
        waits = (await client.get(f"/api/v1/ingest/status/{request_id}", headers={"Prefer": "wait=3"})).json()
        assert (waits["status"], waits["error"], waits["source"]["url"]) == ("pending", None, "***")
        shown = await client.get(f"{CAMERAS}/plain")
        assert (shown.status_code, shown.json()["rtsp_url"]) == (200, "***")
        for path in ("snapshot", "probe"):
            answer = await client.post(f"{CAMERAS}/plain/{path}")
            assert code(answer, 503) == "database_unavailable"
            assert "SECRETS__KEYS" in answer.json()["detail"]
        health = await client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert key_id(old) in health.json()["checks"]["secrets"]["detail"]
        # A URL set anew is under the key that is there.
        await client.patch(f"{CAMERAS}/plain", json={"name": "still there"})
    text = wrong.text()
    assert "secret_keys_missing" in text
    assert "S3cr3t" not in text
    for key in (old, new):
        assert key not in text
    # Both keys; then everything under the new one; then the old one goes.
    refused = _rotate(environment(new))
    assert (refused.returncode, "could not be opened" in refused.stdout) == (1, True), refused.stderr
    done = _rotate(environment(new, old))
    assert done.returncode == 0, done.stderr
    assert "3 URLs" in done.stdout
    assert _rotate(environment(new, old)).stdout.startswith("0 URLs")
    async with running(Service(environment(new), log)) as client:
        assert (await client.post(f"{CAMERAS}/plain/snapshot")).status_code == 201
        assert PASSWORD not in (await client.get(f"{CAMERAS}/plain")).text


async def test_a_damaged_key_file_stops_the_start_with_its_reason(own: Backends, tmp_path: Path) -> None:
    environment = {**own.environment(tmp_path), "SECRETS__KEYS": "[]"}
    (tmp_path / "secrets.keys").write_text("[")
    said = tmp_path / "said"
    process = Forked("main.py", environment, tmp_path / "out", said)
    assert await asyncio.to_thread(process.wait, 40) == 2
    assert "secrets.keys is damaged" in said.read_text()
    assert "Traceback" not in said.read_text()
    assert "DATA_DIR" not in clean_environment()
