"""Source pictures over HTTP: `main.py` as a process, a registered camera whose encoding is source."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Iterator
from typing import Any

import av
import httpx
import pytest
import pytest_asyncio
from PIL import Image

from demo.camera import Camera
from demo.film import make_film
from tests.conftest import Backends, Service, running, unique
from tests.kits.service_support import own_database

pytestmark = pytest.mark.paced
SIZE = (640, 360)


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Camera]:
    film = make_film(tmp_path_factory.mktemp("films"), width=SIZE[0], height=SIZE[1], fps=25, seconds=4, bitrate=900_000)
    with Camera({"plain": film}, join="burst") as made:
        yield made


@pytest_asyncio.fixture(scope="module")
async def service(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    folder, own = tmp_path_factory.mktemp("service"), await own_database(backends)
    made = Service(own.environment(folder / "data", RTSP__LINGER="0.3", RTSP__SOURCE_CHECK="0"), folder / "log")
    async with running(made):
        yield made
    assert "Traceback" not in made.text()


@pytest_asyncio.fixture(scope="module")
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"{service.url}/api/v1", timeout=60) as made:
        yield made


@pytest_asyncio.fixture(scope="module")
async def camera_id(client: httpx.AsyncClient, camera: Camera) -> str:
    name = unique()
    body = {"camera_id": name, "rtsp_url": camera.url_of("plain"), "encoding": "source", "keep_open": True}
    answer = await client.post("/cameras", json=body)
    assert (answer.status_code, answer.json()["encoding"]) == (201, "source"), answer.text
    return name


async def captured(client: httpx.AsyncClient, camera_id: str, **fields: Any) -> list[dict[str, Any]]:
    """The frames of a short capture, by sequence."""
    body = {"camera_id": camera_id, "capture_mode": "continuous", "fps": 1.0, "capture_duration": 2, **fields}
    answer = await client.post("/ingest/rtsp", json=body, headers={"Prefer": "wait=20"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "completed", answer.text
    return sorted(answer.json()["frames"], key=lambda frame: int(frame["sequence"]))


@pytest_asyncio.fixture(scope="module")
async def frames(client: httpx.AsyncClient, camera_id: str) -> list[dict[str, Any]]:
    return await captured(client, camera_id)


async def test_the_cameras_encoding_counts_unless_the_request_says_another(
    client: httpx.AsyncClient, camera_id: str, frames: list[dict[str, Any]]
) -> None:
    assert {(frame["format"], frame["content_type"], frame["integrity"]) for frame in frames} == {
        ("h264", "video/mp4", "undecoded")
    }
    assert {(frame["width"], frame["height"]) for frame in frames} == {SIZE}
    (plain,) = await captured(client, camera_id, encoding="jpeg", max_frames=1)
    assert (plain["format"], plain["integrity"]) == ("jpg", "verified")
    listed = (await client.get("/frames", params={"camera_id": camera_id})).json()["items"]
    assert {frame["format"] for frame in listed} == {"h264", "jpg"}


async def test_its_bytes_have_ranges_names_and_a_type(client: httpx.AsyncClient, frames: list[dict[str, Any]]) -> None:
    frame = frames[0]
    path = f"/frames/{frame['frame_id']}/content"
    whole = await client.get(path, params={"proxy": "true"})
    assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
    assert hashlib.sha256(whole.content).hexdigest() == frame["sha256"]
    assert whole.headers["content-disposition"].endswith('.mp4"')
    stored = await client.get(path, follow_redirects=True)
    assert (stored.content, stored.headers["content-type"]) == (whole.content, "video/mp4")
    assert stored.headers["content-disposition"].endswith('.mp4"')
    part = await client.get(path, params={"proxy": "true"}, headers={"Range": "bytes=4-11"})
    assert (part.status_code, part.content) == (206, b"ftypisom")
    head = await client.head(path)
    assert (head.headers["content-length"], head.headers["etag"]) == (str(frame["size_bytes"]), f'"{frame["sha256"]}"')
    assert (await client.post(f"/frames/{frame['frame_id']}/verify")).json()["ok"] is True
    with av.open(io.BytesIO(whole.content), "r") as file:
        assert [(one.width, one.height) for one in file.decode(video=0)] == [SIZE]


async def test_as_jpeg_it_is_made_once_with_ranges_and_an_etag(
    client: httpx.AsyncClient, frames: list[dict[str, Any]]
) -> None:
    frame = frames[1]
    path, jpeg = f"/frames/{frame['frame_id']}/content", {"as": "jpeg"}
    head = await client.head(path, params=jpeg)
    answer = await client.get(path, params=jpeg)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(answer.content)).size == SIZE
    assert head.headers["content-length"] == str(len(answer.content))
    assert answer.headers["content-disposition"].endswith('.jpg"')
    assert head.headers["etag"] == answer.headers["etag"] != f'"{frame["sha256"]}"'
    same = await client.get(path, params=jpeg, headers={"If-None-Match": answer.headers["etag"]})
    assert same.status_code == 304
    part = await client.get(path, params=jpeg, headers={"Range": "bytes=-2"})
    assert (part.status_code, part.content) == (206, b"\xff\xd9")
    wrong = await client.get(path, params={"as": "png"})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_request")
    found = (await client.get(f"/frames/{frame['frame_id']}")).json()
    assert (found["integrity"], found["quality"]["verdict"], found["quality"]["frozen_s"]) == ("verified", "good", None)
    missing = await client.get("/frames/00000000-0000-4000-8000-000000000000/content", params=jpeg)
    assert (missing.status_code, missing.json()["code"]) == (404, "frame_not_found")


async def test_a_jpeg_as_jpeg_is_itself_and_other_kinds_are_converted(client: httpx.AsyncClient) -> None:
    made = {}
    for kind in ("jpeg", "png"):
        out = io.BytesIO()
        Image.new("RGB", (64, 48), "red").save(out, kind)
        answer = await client.post(
            "/ingest/upload", data={"camera_id": unique()}, files={"files": (f"a.{kind}", out.getvalue(), f"image/{kind}")}
        )
        made[kind] = (answer.json()["frames"][0], out.getvalue())
    frame, data = made["jpeg"]
    assert frame["integrity"] == "verified"
    answer = await client.get(f"/frames/{frame['frame_id']}/content", params={"as": "jpeg", "proxy": "true"})
    assert (answer.content, answer.headers["etag"]) == (data, f'"{frame["sha256"]}"')
    frame, _ = made["png"]
    answer = await client.get(f"/frames/{frame['frame_id']}/content", params={"as": "jpeg"})
    assert Image.open(io.BytesIO(answer.content)).format == "JPEG"
    assert answer.headers["content-disposition"] == 'inline; filename="a.png.jpg"'


async def test_thumbnails_and_pairs_decode_it(client: httpx.AsyncClient, frames: list[dict[str, Any]]) -> None:
    first, second = (frame["frame_id"] for frame in frames)
    small = await client.get(f"/frames/{first}/thumbnail", params={"width": 320})
    assert Image.open(io.BytesIO(small.content)).size == (320, 180)
    pair = (await client.post("/pairs", json={"before": {"frame_id": first}, "after": {"frame_id": second}})).json()
    async with asyncio.timeout(30):
        while pair["alignment"]["status"] == "pending":
            await asyncio.sleep(0.2)
            pair = (await client.get(f"/pairs/{pair['pair_id']}")).json()
    assert pair["alignment"]["status"] in ("aligned", "same_size")
    for frame in frames:
        found = (await client.get(f"/frames/{frame['frame_id']}")).json()
        assert (found["integrity"], found["quality"]["verdict"]) == ("verified", "good")
    seen = await client.get(f"/pairs/{pair['pair_id']}/view", params={"kind": "before", "width": 320})
    assert Image.open(io.BytesIO(seen.content)).size == (320, 180)


async def test_a_snapshot_is_the_last_keyframe_or_the_next_one(client: httpx.AsyncClient, camera_id: str) -> None:
    path = f"/cameras/{camera_id}/snapshot"
    last = await client.post(path, json={"max_staleness": 60})
    following = await client.post(path)
    plain = await client.post(path, json={"encoding": "jpeg"})
    quality = await client.post(path, json={"jpeg_quality": 70})
    assert [one.status_code for one in (last, following, plain, quality)] == [201] * 4, following.text
    assert [one.json()["format"] for one in (last, following, plain, quality)] == ["h264", "h264", "jpg", "jpg"]
    assert last.json()["timestamp"] <= following.json()["timestamp"]


async def test_the_newest_frame_is_shown_once_the_stream_is_closed(client: httpx.AsyncClient, camera: Camera) -> None:
    name = unique()
    body = {"camera_id": name, "rtsp_url": camera.url_of("plain"), "encoding": "source"}
    answer = await client.post("/ingest/rtsp", json=body, headers={"Prefer": "wait=20"})
    assert answer.json()["status"] == "completed", answer.text
    async with asyncio.timeout(15):
        while (shown := await client.get(f"/cameras/{name}/latest.jpg")).headers.get("x-picture-source") != "frame":
            assert shown.status_code == 200, shown.text
            await asyncio.sleep(0.1)
    assert Image.open(io.BytesIO(shown.content)).size == SIZE


async def test_a_camera_takes_another_encoding_by_patch(client: httpx.AsyncClient, camera: Camera) -> None:
    name = unique()
    body = {"camera_id": name, "rtsp_url": camera.url_of("plain")}
    assert (await client.post("/cameras", json=body)).json()["encoding"] == "jpeg"
    merge = {"Content-Type": "application/merge-patch+json"}
    for sent, found in (('"source"', "source"), ("null", "jpeg"), ('"source"', "source")):
        answer = await client.patch(f"/cameras/{name}", content=f'{{"encoding": {sent}}}', headers=merge)
        assert (answer.status_code, answer.json()["encoding"]) == (200, found)
    wrong = await client.patch(f"/cameras/{name}", content='{"encoding": "raw"}', headers=merge)
    assert wrong.status_code == 422
