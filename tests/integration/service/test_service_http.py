"""The contract over HTTP against a running service: uploads, lists, deletes, what is not built, and no secret anywhere."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import pytest
import pytest_asyncio
from PIL import Image

from config import DbSettings
from demo.camera import Camera
from demo.faults import FaultProxy
from tests.conftest import SECRETS_KEY, Backends, Service, running, unique
from tests.kits.browser import Tab, browser, tab
from tests.kits.polyglots import Polyglot, attacking, polyglots
from tests.kits.service_support import (
    all_frames,
    assert_objects,
    capture,
    final,
    jpeg,
    own_database,
    service_on,
    sha256,
    upload,
)
from utils.secret_box import SecretBox

__all__ = ["browser", "tab"]

MAX_FILE = 200_000
UPLOAD = "/api/v1/ingest/upload"


@dataclass
class Running:
    service: Service
    client: httpx.AsyncClient
    db: DbSettings

    async def sql(self, statement: str, *values: Any) -> list[Any]:
        db = self.db
        connection = await asyncpg.connect(
            host=db.HOST, port=db.PORT, user=db.USER, password=db.PASSWORD.get_secret_value() or None, database=db.NAME
        )
        try:
            return list(await connection.fetch(statement, *values))
        finally:
            await connection.close()


@pytest_asyncio.fixture(scope="module")
async def live(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    own = await own_database(backends)
    service = service_on(
        own, tmp_path_factory.mktemp("http"), UPLOAD__MAX_FILE_SIZE=str(MAX_FILE), UPLOAD__MAX_PIXELS="1000000",
        LOG__LEVEL="DEBUG", RTSP__CAPTURE_TIMEOUT="5",
    )  # fmt: skip
    async with running(service) as client:
        yield Running(service, client, own.db)


@pytest.fixture(scope="module")
def camera() -> Iterator[Camera]:
    with Camera(size=(320, 180), fps=10, bitrate=300_000) as camera:
        yield camera


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The answer as a problem of the contract."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    found: dict[str, Any] = answer.json()
    assert (found["status"], found["code"], found["type"]) == (status, code, "about:blank")
    assert found["trace_id"] == answer.headers["x-request-id"]
    assert set(found) >= {"title", "detail", "instance", "retryable", "errors"}
    return found


async def stored(client: httpx.AsyncClient, files: list[Polyglot]) -> list[dict[str, Any]]:
    """Each is a good picture, and is taken."""
    parts = [("files", (file.name, file.data, "application/octet-stream")) for file in files]
    answer = await client.post(UPLOAD, data={"camera_id": unique()}, files=parts)
    assert answer.status_code == 201, answer.text
    assert answer.json()["rejected"] == []
    frames: list[dict[str, Any]] = answer.json()["frames"]
    return frames


async def counts(live: Running) -> tuple[int, int]:
    rows = await live.sql("SELECT (SELECT count(*) FROM ingestion_requests), (SELECT count(*) FROM frames)")
    return int(rows[0][0]), int(rows[0][1])


# -- uploads -----------------------------------------------------------------------------------------------------


async def test_good_files_beside_a_bad_one_are_stored_unchanged(live: Running) -> None:
    first, second, name = jpeg(), jpeg((64, 48)), unique()
    files = [
        ("files", ("a.jpg", first, "image/jpeg")),
        ("files", ("../../notes.txt", b"not a picture", "text/plain")),
        ("files", ("b b.JPEG", second, "application/octet-stream")),
    ]
    meta = {"session": "FP1", "timestamp_ref": "2026-05-04T15:30:00+02:00", "extra": {"n": 1}}
    answer = await live.client.post(UPLOAD, data={"camera_id": name, "meta": json.dumps(meta)}, files=files)
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert answer.headers["location"] == f"/api/v1/ingest/status/{found['request_id']}"
    assert (found["status"], found["frames_total"], found["capture_mode"]) == ("completed", 2, None)
    assert found["progress"] | {"last_frame_at": None} == {
        "expected": 3, "stored": 2, "in_flight": 0, "dropped": {"rejected": 1}, "duplicates": 0, "gaps": [], "reconnects": 0,
        "last_frame_at": None,
    }  # fmt: skip
    assert [(item["index"], item["filename"], item["code"]) for item in found["rejected"]] == [
        (1, "notes.txt", "unsupported_image_format")
    ]
    assert [(item["filename"], item["sequence"], item["sha256"]) for item in found["frames"]] == [
        ("a.jpg", 0, sha256(first)), ("b b.JPEG", 2, sha256(second)),
    ]  # fmt: skip
    for item, sent in zip(found["frames"], (first, second), strict=True):
        assert item["timestamp"] == "2026-05-04T13:30:00.000000Z"
        assert item["timestamp_source"] == "client"
        assert item["meta"]["session"] == "FP1"
        direct = httpx.get(item["storage_url"])
        assert (direct.status_code, direct.content) == (200, sent)
        through = await live.client.get(f"/api/v1/frames/{item['frame_id']}/content", params={"proxy": "true"})
        assert (through.status_code, through.content) == (200, sent)
        assert through.headers["etag"] == f'"{sha256(sent)}"'
        redirect = await live.client.get(f"/api/v1/frames/{item['frame_id']}/content")
        assert redirect.status_code == 307
        assert redirect.headers["cache-control"] == "no-store"
        assert httpx.get(redirect.headers["location"]).content == sent
        part = await live.client.get(
            f"/api/v1/frames/{item['frame_id']}/content", params={"proxy": "true"}, headers={"Range": "bytes=10-19"}
        )
        assert (part.status_code, part.content) == (206, sent[10:20])
        head = await live.client.head(f"/api/v1/frames/{item['frame_id']}/content")
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(sent)))
        assert (await live.client.get(f"/api/v1/frames/{item['frame_id']}")).json()["sha256"] == item["sha256"]
    again = (await live.client.get(answer.headers["location"])).json()
    for item in [*again["frames"], *found["frames"]]:  # made anew in every answer
        del item["storage_url"], item["url_expires_at"]
    assert again == found


def bomb() -> bytes:
    """A PNG of a few hundred bytes that claims 60000 x 60000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def plain(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "JPEG")
    return buffer.getvalue()


GOOD = jpeg((64, 48))
BAD: dict[str, tuple[dict[str, str], list[tuple[str, bytes, str]], int, str]] = {
    "eleven": ({"camera_id": "c"}, [("a.jpg", GOOD, "image/jpeg")] * 11, 413, "too_many_files"),
    "no camera": ({}, [("a.jpg", GOOD, "image/jpeg")], 422, "invalid_request"),
    "path camera": ({"camera_id": "../../x"}, [("a.jpg", GOOD, "image/jpeg")], 422, "invalid_request"),
    "dots camera": ({"camera_id": ".."}, [("a.jpg", GOOD, "image/jpeg")], 422, "invalid_request"),
    "no file": ({"camera_id": "c"}, [], 422, "invalid_request"),
    "unknown part": ({"camera_id": "c", "colour": "red"}, [("a.jpg", GOOD, "image/jpeg")], 422, "invalid_request"),
    "bad meta": ({"camera_id": "c", "meta": "{"}, [("a.jpg", GOOD, "image/jpeg")], 400, "malformed_request"),
    "unknown meta": ({"camera_id": "c", "meta": '{"x": 1}'}, [("a.jpg", GOOD, "image/jpeg")], 422, "invalid_request"),
    "empty": ({"camera_id": "c"}, [("a.jpg", b"", "image/jpeg")], 422, "invalid_image"),
    "truncated": ({"camera_id": "c"}, [("a.jpg", jpeg()[:-300], "image/jpeg")], 422, "invalid_image"),
    "text": ({"camera_id": "c"}, [("a.jpg", b"hello, this is text" * 20, "image/jpeg")], 422, "image_type_mismatch"),
    "png as jpg": ({"camera_id": "c"}, [("a.jpg", png(), "image/jpeg")], 422, "image_type_mismatch"),
    "jpg as png": ({"camera_id": "c"}, [("a.png", GOOD, "image/png")], 422, "image_type_mismatch"),
    "oversize": ({"camera_id": "c"}, [("a.jpg", GOOD + b"\0" * MAX_FILE, "image/jpeg")], 413, "payload_too_large"),
    "bomb": ({"camera_id": "c"}, [("a.png", bomb(), "image/png")], 413, "image_too_large"),
    "too many pixels": ({"camera_id": "c"}, [("a.jpg", plain((2000, 600)), "image/jpeg")], 413, "image_too_large"),
    "gif": ({"camera_id": "c"}, [("a.gif", b"GIF89a", "image/gif")], 415, "unsupported_image_format"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_is_wrong_has_its_code_and_stores_nothing(live: Running, case: str) -> None:
    form, given, status, code = BAD[case]
    before = await counts(live)
    files: list[tuple[str, Any]] = [("files", item) for item in given] or [("meta", (None, b"", None))]
    found = problem(await live.client.post(UPLOAD, data=form, files=files), status, code)
    assert await counts(live) == before
    if case in ("empty", "truncated", "text", "png as jpg", "oversize", "bomb", "gif"):
        assert [item["code"] for item in found["rejected"]] == [code]
        good = [("files", ("good.jpg", jpeg((40, 30)), "image/jpeg")), *(("files", item) for item in given)]
        answer = await live.client.post(UPLOAD, data=form, files=good)  # a good file beside it is stored
        assert answer.status_code == 201, answer.text
        assert [item["code"] for item in answer.json()["rejected"]] == [code]
        assert [item["filename"] for item in answer.json()["frames"]] == ["good.jpg"]


async def test_duplicates_name_the_cameras_first(live: Running) -> None:
    name, data = unique(), jpeg()
    answers = await asyncio.gather(*(upload(live.client, name, data) for _ in range(4)))
    frames = [answer.json()["frames"][0] for answer in answers]
    firsts = [item for item in frames if item["duplicate_of"] is None]
    assert len(firsts) == 1
    assert {item["duplicate_of"] for item in frames} == {None, firsts[0]["frame_id"]}
    assert len({item["storage_path"] for item in frames}) == 4  # each frame owns its object
    assert (await live.client.delete(f"/api/v1/frames/{firsts[0]['frame_id']}")).status_code == 204
    left = [item for item in frames if item is not firsts[0]]
    await assert_objects(live.client, left)
    again = (await upload(live.client, name, data)).json()
    assert again["frames"][0]["duplicate_of"] == firsts[0]["frame_id"]  # deleted since
    assert again["progress"]["duplicates"] == 1
    assert (await upload(live.client, unique(), data)).json()["frames"][0]["duplicate_of"] is None


# -- lists -------------------------------------------------------------------------------------------------------


async def pages(client: httpx.AsyncClient, path: str, between: Any = None, **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        answer = (await client.get(path, params=query)).raise_for_status().json()
        found += answer["items"]
        if answer["next_cursor"] is None:
            return found
        query["cursor"] = answer["next_cursor"]
        if between is not None:
            await between()


async def test_every_frame_comes_once_while_frames_are_added(live: Running) -> None:
    name = unique()
    stamp = [f"2026-05-04T13:30:{n % 3:02d}Z" for n in range(12)]

    async def add(when: str) -> str:
        answer = await upload(live.client, name, jpeg((16, 16)), meta=json.dumps({"timestamp_ref": when}))
        return str(answer.json()["frames"][0]["frame_id"])

    before = {await add(when) for when in stamp}
    for order in ("asc", "desc"):
        added = 0

        async def between() -> None:
            nonlocal added
            if added < 6:
                added += 1
                await add(stamp[added])

        seen = await pages(live.client, "/api/v1/frames", between, camera_id=name, order=order, limit="3")
        ids = [item["frame_id"] for item in seen]
        assert len(ids) == len(set(ids))
        assert before <= set(ids)
        keys = [(item["timestamp"], item["frame_id"]) for item in seen]
        assert keys == sorted(keys, reverse=order == "desc")


async def test_every_request_comes_once_while_requests_are_added(live: Running) -> None:
    name = unique()
    made = [(await upload(live.client, name, jpeg((16, 16)))).json()["request_id"] for _ in range(7)]

    async def between() -> None:
        await upload(live.client, name, jpeg((16, 16)))

    seen = await pages(live.client, "/api/v1/ingest/requests", between, camera_id=name, limit="2")
    assert [item["request_id"] for item in seen] == made[::-1]
    assert all("frames" not in item for item in seen)


async def test_every_filter_of_the_lists(live: Running, camera: Camera) -> None:
    name = unique()
    uploaded = (await upload(live.client, name, jpeg((16, 16)), meta='{"timestamp_ref": "2026-05-04T13:30:00Z"}')).json()
    single = await capture(live.client, name, camera.url)
    refused = await capture(live.client, name, "rtsp://127.0.0.1:1/x", capture_mode="continuous", capture_duration=1)
    await final(live.client, single)
    cancelled = await live.client.post(f"/api/v1/ingest/requests/{refused}/cancel")
    assert cancelled.status_code == 202
    assert cancelled.headers["location"].endswith(refused)
    await final(live.client, refused)
    assert (await live.client.post(f"/api/v1/ingest/requests/{refused}/cancel")).status_code == 200
    upload_id = uploaded["request_id"]

    async def requests(**query: str) -> set[str]:
        return {item["request_id"] for item in await pages(live.client, "/api/v1/ingest/requests", **query)}

    mine = {"camera_id": name}
    assert await requests(**mine) == {upload_id, single, refused}
    assert await requests(**mine, status="completed") == {upload_id, single}
    assert await requests(**mine, status="cancelled") == {refused}
    assert await requests(**mine, source_type="upload") == {upload_id}
    assert await requests(**mine, capture_mode="continuous") == {refused}
    at = uploaded["created_at"]
    later = (datetime.fromisoformat(at) + timedelta(microseconds=1)).isoformat()
    assert upload_id in await requests(created_from=at, created_to=later)
    assert upload_id not in await requests(created_from=later)
    assert upload_id not in await requests(created_to=at)

    async def frames(**query: str) -> set[str]:
        return {item["request_id"] for item in await pages(live.client, "/api/v1/frames", **query)}

    assert await frames(**mine) == {upload_id, single}
    assert await frames(request_id=single) == {single}
    assert await frames(**mine, source_type="rtsp") == {single}
    assert await frames(**mine, **{"from": "2026-05-04T13:30:00Z", "to": "2026-05-04T13:30:00.000001Z"}) == {upload_id}
    assert await frames(**mine, to="2026-05-04T13:30:00Z") == set()
    assert await frames(**mine, **{"from": "2026-05-04T15:30:00.000001+02:00"}) == {single}

    stored_at = uploaded["frames"][0]["stored_at"]
    after = (datetime.fromisoformat(stored_at) + timedelta(microseconds=1)).isoformat()
    assert await frames(**mine, stored_from=stored_at) == {upload_id, single}
    assert await frames(**mine, stored_from=stored_at, stored_to=after) == {upload_id}
    assert await frames(**mine, stored_from=after) == {single}  # stored later, whatever its capture time
    assert await frames(**mine, stored_to=stored_at) == set()
    naive = await live.client.get("/api/v1/frames", params={**mine, "stored_from": "2026-05-04T13:30:00"})
    assert problem(naive, 422, "invalid_request")["errors"][0]["name"] == "stored_from"

    nearest = (await live.client.get("/api/v1/frames/nearest", params={**mine, "at": "2026-05-04T13:29:58.5Z"})).json()
    assert (nearest["request_id"], nearest["distance_ms"]) == (upload_id, 1500)
    now = datetime.now(UTC).isoformat()
    assert (await live.client.get("/api/v1/frames/nearest", params={**mine, "at": now})).json()["request_id"] == single
    problem(
        await live.client.get("/api/v1/frames/nearest", params={"camera_id": unique(), "at": now}), 404, "frame_not_found"
    )


async def test_lists_by_subject_session_and_phase(live: Running) -> None:
    """Texts of any length and kind; the shorter one is not taken for the longer one that begins with it."""
    name, long = unique(), unique() + "é:{}%'" * 2000
    car = unique()
    metas = [
        {"subject": car, "session": "FP1", "phase": "before"}, {"subject": car, "session": "FP1", "phase": "after"},
        {"subject": car, "session": long}, {"session": long[:100]}, {"subject": f"{car} "}, {},
    ]  # fmt: skip
    ids = []
    for meta in metas:
        made = await upload(live.client, name, jpeg((16, 16)), meta=json.dumps(meta))
        assert made.status_code == 201, made.text
        assert made.json()["frames"][0]["meta"] == meta
        ids.append(made.json()["request_id"])

    for path in ("/api/v1/ingest/requests", "/api/v1/frames"):

        async def found(path: str = path, **query: str) -> set[int]:
            items = await pages(live.client, path, limit="2", **query)
            assert len(items) == len({item["request_id"] for item in items})
            return {ids.index(item["request_id"]) for item in items}

        assert await found(subject=car) == {0, 1, 2}
        assert await found(subject=car, phase="after") == {1}
        assert await found(camera_id=name, phase="before") == {0}
        assert await found(subject=car, session="FP1") == {0, 1}
        assert await found(session=long[:100]) == {3}
        assert await found(session=long[:1000]) == set()
        assert await found(subject="nobody") == set()
    wrong = await upload(live.client, name, jpeg((16, 16)), meta='{"phase": "during"}')
    assert problem(wrong, 422, "invalid_request")["errors"][0]["pointer"] == "/meta/phase"


async def test_a_frame_tells_where_its_registered_camera_stands(live: Running, camera: Camera) -> None:
    """Captures, snapshots and uploads; what the client says goes before it."""
    name = unique()
    body = {"camera_id": name, "rtsp_url": camera.url, "location": "pit lane", "camera_angle": "front left"}
    assert (await live.client.post("/api/v1/cameras", json=body)).status_code == 201
    made = await upload(live.client, name, jpeg((16, 16)), meta='{"session": "FP1", "camera_angle": "rear"}')
    assert made.json()["frames"][0]["meta"] == {"session": "FP1", "location": "pit lane", "camera_angle": "rear"}
    assert made.json()["meta"] == {"session": "FP1", "camera_angle": "rear"}
    shot = await live.client.post(f"/api/v1/cameras/{name}/snapshot", json={"meta": {"phase": "before"}})
    assert shot.status_code == 201, shot.text
    assert shot.json()["meta"] == {"phase": "before", "location": "pit lane", "camera_angle": "front left"}


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=x",
        "colour=red",
        "cursor=abc",
        "camera_id=",
        "camera_id=../x",
        "camera_id=a&camera_id=b",
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/frames", "/api/v1/ingest/requests"])
async def test_bad_queries_are_refused(live: Running, path: str, query: str) -> None:
    found = problem(await live.client.get(f"{path}?{query}"), 422, "invalid_request")
    assert found["errors"][0]["in"] == "query"


async def test_a_cursor_with_other_filters_is_refused(live: Running) -> None:
    name = unique()
    for _ in range(2):
        await upload(live.client, name, jpeg((16, 16)))
    for path in ("/api/v1/frames", "/api/v1/ingest/requests"):
        cursor = (await live.client.get(path, params={"camera_id": name, "limit": 1})).json()["next_cursor"]
        assert cursor
        problem(await live.client.get(path, params={"cursor": cursor}), 422, "invalid_request")
        problem(
            await live.client.get(path, params={"cursor": cursor[:-3] + "AAA", "camera_id": name}), 422, "invalid_request"
        )
        other = {"/api/v1/frames": "/api/v1/ingest/requests"}.get(path, "/api/v1/frames")
        problem(await live.client.get(other, params={"cursor": cursor, "camera_id": name}), 422, "invalid_request")


async def test_head_works_wherever_get_does(live: Running) -> None:
    item = (await upload(live.client, unique(), jpeg((16, 16)))).json()
    one = item["frames"][0]["frame_id"]
    for path in (
        "/health", "/health/live", "/health/ready", "/metrics", "/api/v1/frames?limit=1", "/api/v1/ingest/requests?limit=1",
        f"/api/v1/frames/{one}", f"/api/v1/ingest/status/{item['request_id']}", "/openapi.json", "/docs",
    ):  # fmt: skip
        head = await live.client.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        assert "x-request-id" in head.headers
    problem(await live.client.get("/api/v1/frames/not-a-uuid"), 422, "invalid_request")
    problem(await live.client.get(f"/api/v1/ingest/status/{one}"), 404, "request_not_found")
    assert (await live.client.head(f"/api/v1/frames/{item['request_id']}")).status_code == 404


async def test_a_deleted_frame_is_gone(live: Running) -> None:
    found = (await upload(live.client, unique(), jpeg(), jpeg())).json()
    gone, kept = found["frames"]
    path = f"/api/v1/frames/{gone['frame_id']}"
    for _ in range(3):
        answer = await live.client.delete(path)
        assert (answer.status_code, answer.content) == (204, b"")
    assert (await live.client.delete("/api/v1/frames/01934f5e-2c10-8a5b-8f21-0c9d8e7f6a5b")).status_code == 204
    problem(await live.client.get(path), 404, "frame_not_found")
    problem(await live.client.get(f"{path}/content?proxy=true"), 404, "frame_not_found")
    assert httpx.get(gone["storage_url"]).status_code == 404
    after = (await live.client.get(f"/api/v1/ingest/status/{found['request_id']}")).json()
    assert (after["frames_total"], after["progress"]["stored"]) == (1, 2)
    assert [item["frame_id"] for item in after["frames"]] == [kept["frame_id"]]
    assert [item["frame_id"] for item in await all_frames(live.client, found["request_id"])] == [kept["frame_id"]]
    await assert_objects(live.client, [kept])


# -- moments that nothing has ------------------------------------------------------------------------------------


async def test_a_thumbnail_and_whether_the_bytes_are_those_that_were_stored(live: Running) -> None:
    frame = (await upload(live.client, unique(), jpeg((640, 480)))).json()["frames"][0]
    at = f"/api/v1/frames/{frame['frame_id']}"
    first = await live.client.get(f"{at}/thumbnail?width=100")
    assert (first.status_code, first.headers["content-type"], first.headers["etag"]) == (
        200, "image/jpeg", f'"{frame["sha256"]}-160"',
    )  # fmt: skip
    assert Image.open(io.BytesIO(first.content)).size == (160, 120)
    known = {"If-None-Match": first.headers["etag"]}
    assert (await live.client.get(f"{at}/thumbnail?width=160", headers=known)).status_code == 304
    assert (await live.client.get(f"{at}/thumbnail")).headers["etag"].endswith('-320"')
    for wrong in ("0", "1025", "x", "1.5"):
        problem(await live.client.get(f"{at}/thumbnail?width={wrong}"), 422, "invalid_request")
    good = (await live.client.post(f"{at}/verify")).json()
    assert good == {"ok": True, "sha256": frame["sha256"], "size_bytes": frame["size_bytes"]}
    await live.sql("UPDATE frames SET sha256 = $1 WHERE id = $2", "0" * 64, frame["frame_id"])
    assert (await live.client.post(f"{at}/verify")).json() == {**good, "ok": False}
    await live.client.delete(at)
    problem(await live.client.get(f"{at}/thumbnail"), 404, "frame_not_found")
    problem(await live.client.post(f"{at}/verify"), 404, "frame_not_found")


async def test_a_moment_long_ago_or_far_ahead_is_refused(live: Running) -> None:
    post = live.client.post
    body = {"camera_id": "c", "rtsp_url": "rtsp://127.0.0.1:1/x"}
    old = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    far = (datetime.now(UTC) + timedelta(hours=25)).isoformat()
    for when in (old, far):
        problem(await post("/api/v1/ingest/rtsp", json={**body, "frame_timestamp": when}), 422, "timestamp_out_of_range")


# -- secrets -----------------------------------------------------------------------------------------------------


async def test_polyglots_run_nothing(live: Running, tab: Tab) -> None:
    """Pictures that are pages or scripts as well, in a real browser: from the store, and from here."""
    async with attacking() as attacker:
        files = polyglots(f"{attacker.url}/ran?")
        # They are alive: from a server that calls them what they are besides, each runs.
        attacker.served = {f"/{file.name}": (file.as_type, file.data) for file in files}
        await tab.page.goto(attacker.embedding(*(f"{attacker.url}/{file.name}" for file in files)))
        await tab.page.wait_for_load_state("networkidle")
        assert {file.name for file in files} == set(attacker.ran)
        attacker.ran.clear()
        frames = await stored(live.client, files)
        direct = [frame["storage_url"] for frame in frames]
        proxied = [f"{live.client.base_url}/api/v1/frames/{frame['frame_id']}/content?proxy=true" for frame in frames]
        await tab.page.goto(attacker.embedding(*direct, *proxied))
        for url, file, frame in zip([*direct, *proxied], files * 2, frames * 2, strict=True):
            answer = await tab.page.goto(url)
            assert answer is not None
            assert await tab.page.evaluate("document.contentType") == frame["content_type"]
            assert answer.headers["content-type"] == frame["content_type"]
            assert answer.headers["content-disposition"] == f'inline; filename="{file.name}"'
            assert url not in proxied or answer.headers["x-content-type-options"] == "nosniff"
        await tab.page.goto("about:blank")
        assert attacker.ran == []
        assert tab.left_the_machine == []


@pytest.mark.parametrize("password", ["S3cr3t@x/1?y", "S3cr3t#'\"<z"])
async def test_no_secret_is_anywhere(live: Running, camera: Camera, password: str) -> None:
    """A camera's password: not in the log, an answer, a metric, a header, or a row to be read."""
    name = unique("secret")
    told: list[str] = []
    with FaultProxy(camera.port) as proxy:
        proxy.require_auth("user", password)
        good = proxy.url("cam1", f"user:{quote(password, safe='')}")
        raw = f"rtsp://user:{password.replace('/', '%2F')}@127.0.0.1:{proxy.port}/cam1"  # as people paste it
        wrong = proxy.url("cam1", f"user:S3cr3t-wrong{quote(password, safe='')}")
        bodies: list[dict[str, Any]] = [
            {"rtsp_url": good}, {"rtsp_url": raw}, {"rtsp_url": wrong}, {"rtsp_url": good, "fps": "S3cr3t"},
            {"rtsp_url": f"http://user:{password}@127.0.0.1/x"},
            {"rtsp_url": f"rtsp://user:{quote(password, safe='')}@8.8.8.8/x"},
            {"rtsp_url": good, "capture_mode": "continuous", "capture_duration": 3, "fps": 5},
        ]  # fmt: skip
        ids = []
        for body in bodies:
            answer = await live.client.post("/api/v1/ingest/rtsp", json={"camera_id": name, **body})
            told.append(answer.text + str(answer.headers))
            if answer.status_code == 202:
                ids.append(answer.json()["request_id"])
        assert len(ids) == 4
        await asyncio.sleep(1.5)
        proxy.drop_connections(reset=True)  # a stream that breaks is logged
        ends = {request_id: await final(live.client, request_id, 30) for request_id in ids}
    assert [ends[request_id]["status"] for request_id in ids] == ["completed", "completed", "failed", "completed"]
    assert ends[ids[2]]["error"]["code"] == "unauthorized_camera"
    for found in ends.values():
        assert found["source"]["url"].startswith("rtsp://127.0.0.1:")  # not its user name either
        told.append(json.dumps(found))
    for path in (f"/api/v1/ingest/requests?camera_id={name}", f"/api/v1/frames?camera_id={name}", "/metrics", "/health"):
        answer = await live.client.get(path)
        told.append(answer.text + str(answer.headers))
    told.append(live.service.text())
    for text in told:
        for shape in ("S3cr3t", quote(password, safe=""), quote(password)):
            assert shape not in text
    tables = await live.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert len(tables) > 8
    for (table,) in tables:
        rows = await live.sql(f"SELECT to_jsonb(t) AS row FROM {table} AS t")
        assert not [row for row in rows if "S3cr3t" in row["row"]], table
    kept = await live.sql("SELECT rtsp_url FROM ingestion_requests WHERE id = $1::uuid", ids[0])
    assert "S3cr3t" in SecretBox([SECRETS_KEY]).open(kept[0]["rtsp_url"])  # encrypted: the search would have found it
