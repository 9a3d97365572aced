"""One caller at its share of what is bounded leaves room for another; alone it still gets something."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.conftest import Backends, running, unique
from tests.kits.service_support import jpeg, own_database, service_on, until

BOOTSTRAP = "bootstrap-secret-of-the-share-tests-01234"
ADMIN = {"Authorization": f"Bearer {BOOTSTRAP}"}
NOWHERE = "rtsp://127.0.0.1:9/nothing"
SETTINGS = {
    "AUTH__MODE": "keys", "AUTH__BOOTSTRAP_KEY": BOOTSTRAP, "LIMITS__SHARE": "0.5",
    "RTSP__MAX_CONCURRENT_STREAMS": "4", "RTSP__MAX_PENDING": "4", "RTSP__OPEN_TIMEOUT": "40",
    "UPLOAD__MAX_SESSIONS": "2", "UPLOAD__MAX_CONCURRENT": "2", "EVENTS__MAX_READERS": "2",
    "API__MAX_CONCURRENT_REQUESTS": "40",
}  # fmt: skip
SCOPES = ["ingest:write", "ingest:read", "events:read", "cameras:write", "cameras:read"]
Call = Callable[[dict[str, str], int], Coroutine[Any, Any, httpx.Response]]


@dataclass
class Place:
    client: httpx.AsyncClient

    async def caller(self, *scopes: str) -> dict[str, str]:
        body = {"name": "share", "scopes": scopes or SCOPES}
        made = await self.client.post("/api/v1/api-keys", headers=ADMIN, json=body)
        return {"Authorization": f"Bearer {made.raise_for_status().json()['key']}"}

    async def capture(self, who: dict[str, str], camera_id: str = "") -> httpx.Response:
        """One that holds its stream until it is cancelled: nobody answers there."""
        body = {"camera_id": camera_id or unique(), "rtsp_url": NOWHERE, "capture_mode": "continuous"}
        return await self.client.post("/api/v1/ingest/rtsp", headers=who, json=body)

    async def runs(self, who: dict[str, str], camera_id: str = "") -> str:
        """One more, once it runs."""
        request_id = accepted(await self.capture(who, camera_id))
        await self.becomes(who, request_id, "in_progress")
        return request_id

    async def status(self, who: dict[str, str], request_id: str) -> str:
        answer = await self.client.get(f"/api/v1/ingest/status/{request_id}", headers=who)
        return str(answer.json()["status"])

    async def becomes(self, who: dict[str, str], request_id: str, wanted: str) -> None:
        async def check() -> bool:
            return await self.status(who, request_id) == wanted

        await until(check, f"{request_id} is {wanted}", 30)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    own = await own_database(backends)
    async with running(service_on(own, tmp_path_factory.mktemp("shares"), **SETTINGS)) as client:
        yield Place(client)


def accepted(answer: httpx.Response) -> str:
    assert answer.status_code == 202, answer.text
    return str(answer.json()["request_id"])


async def test_streams_and_captures_that_wait(place: Place) -> None:
    greedy, other = await place.caller(), await place.caller()
    first, second = [await place.runs(greedy) for _ in range(2)]
    third, fourth = [accepted(await place.capture(greedy)) for _ in range(2)]
    refused = await place.capture(greedy)  # two run, two wait: half of RTSP__MAX_PENDING
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_pending")
    beside = await place.runs(other)  # though others were asked for before it
    assert [await place.status(greedy, item) for item in (third, fourth)] == ["pending"] * 2
    camera = unique()
    joined = [await place.runs(other, camera) for _ in range(3)]  # one stream for all of them
    await place.client.post(f"/api/v1/ingest/requests/{first}/cancel", headers=greedy)
    await place.becomes(greedy, third, "in_progress")
    for item in (second, third, fourth, beside, *joined):
        await place.client.post(f"/api/v1/ingest/requests/{item}/cancel", headers=ADMIN)
        await place.becomes(ADMIN, item, "cancelled")


async def test_a_camera_id_with_many_urls_holds_no_more_streams(place: Place) -> None:
    """The claim counts cameras; the streams themselves are counted when they are opened."""
    greedy, other = await place.caller(), await place.caller()
    camera = unique()
    ids = []
    for port in (9, 10, 11):
        body = {"camera_id": camera, "rtsp_url": f"rtsp://127.0.0.1:{port}/x", "capture_mode": "continuous"}
        ids.append(accepted(await place.client.post("/api/v1/ingest/rtsp", headers=greedy, json=body)))
        await place.becomes(greedy, ids[-1], "in_progress")
    beside = [await place.runs(other) for _ in range(2)]

    async def refused_by_its_camera() -> bool:
        answers = [await place.client.get(f"/api/v1/ingest/status/{item}", headers=other) for item in beside]
        return all(answer.json()["error"] is not None for answer in answers)

    await until(refused_by_its_camera, "both streams of the other caller were opened", 10)
    for item in (*ids, *beside):
        await place.client.post(f"/api/v1/ingest/requests/{item}/cancel", headers=ADMIN)
        await place.becomes(ADMIN, item, "cancelled")


async def is_in_flight(place: Place, count: int) -> bool:
    """Whether so many requests are being served, this one aside."""
    text = (await place.client.get("/metrics", headers=ADMIN)).text
    return int(float(re.findall(r"^ingestion_http_in_flight (\S+)$", text, re.MULTILINE)[0])) == count + 1


async def not_found(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A camera without this stream."""
    while line := await reader.readline():
        if line.lower().startswith(b"cseq:"):
            writer.write(b"RTSP/1.0 404 Not Found\r\n" + line.strip() + b"\r\n\r\n")
    writer.close()


@pytest.mark.parametrize("what", ["event readers", "waits", "probes", "requests in flight"])
async def test_places_of_requests_that_take_time(place: Place, what: str) -> None:
    greedy, other = await place.caller(), await place.caller()
    waiting = await place.runs(other)
    nowhere = unique()
    silent = await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    camera = await asyncio.start_server(not_found, "127.0.0.1", 0)  # what speaks RTSP is told at once
    camera_port = camera.sockets[0].getsockname()[1]

    async def poll(who: dict[str, str], seconds: int = 1) -> httpx.Response:
        query = {"after": "latest", "wait": str(seconds), "camera_id": nowhere}
        return await place.client.get("/api/v1/events", params=query, headers=who)

    async def wait(who: dict[str, str], seconds: int = 1) -> httpx.Response:
        headers = {**who, "Prefer": f"wait={seconds}"}
        return await place.client.get(f"/api/v1/ingest/status/{waiting}", headers=headers)

    async def probe(who: dict[str, str], seconds: int = 1) -> httpx.Response:
        body = {"rtsp_url": f"rtsp://127.0.0.1:{port if seconds > 1 else camera_port}/x"}
        return await place.client.post("/api/v1/cameras/probe", headers=who, json=body)

    async def me(who: dict[str, str], _seconds: int = 1) -> httpx.Response:
        return await place.client.get("/api/v1/me", headers=who)

    # What fills the share before, what is sent, how much of that is held, and what one asks beside it.
    cases: dict[str, tuple[list[Call], Call, int, Call]] = {
        "event readers": ([], poll, 1, poll), "waits": ([], wait, 10, wait), "probes": ([], probe, 10, probe),
        "requests in flight": ([*[wait] * 10, poll], probe, 9, me),
    }  # fmt: skip
    before, call, room, another = cases[what]
    tasks = [asyncio.ensure_future(each(greedy, 30)) for each in before]
    await until(lambda: is_in_flight(place, len(before)), "those before are served", 20)
    tasks += [asyncio.ensure_future(call(greedy, 30)) for _ in range(room + 3)]

    async def answered() -> list[httpx.Response]:
        return [task.result() for task in tasks if task.done()] if sum(task.done() for task in tasks) == 3 else []

    refusals = await until(answered, "three are answered", 20)
    assert {answer.status_code for answer in refusals} == {429}
    refused = await another(greedy, 1)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert what in refused.json()["detail"]
    assert int(refused.headers["Retry-After"]) > 0
    beside = asyncio.ensure_future(another(other, 1))
    await asyncio.wait({beside}, timeout=2)
    for task in tasks:
        task.cancel()  # a client that goes away gives its place back
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await beside).status_code == 200

    await until(lambda: is_in_flight(place, 0), "nobody is served", 20)
    assert (await another(greedy, 1)).status_code == 200
    silent.close()
    camera.close()
    await place.client.post(f"/api/v1/ingest/requests/{waiting}/cancel", headers=ADMIN)
    await place.becomes(ADMIN, waiting, "cancelled")


async def test_uploads_and_sessions(place: Place) -> None:
    greedy, other = await place.caller(), await place.caller()
    url = place.client.base_url
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(
        b"POST /api/v1/ingest/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=B\r\n"
        b"Content-Length: 100000\r\nAuthorization: " + greedy["Authorization"].encode() + b"\r\n\r\n--B\r\n"
    )
    await asyncio.sleep(0.3)

    async def send(who: dict[str, str]) -> httpx.Response:
        files = [("files", ("a.jpg", jpeg(), "image/jpeg"))]
        return await place.client.post("/api/v1/ingest/upload", data={"camera_id": unique()}, files=files, headers=who)

    async def begin(who: dict[str, str]) -> httpx.Response:
        body: dict[str, Any] = {"camera_id": unique(), "filename": "a.jpg", "size_bytes": 1000}
        return await place.client.post("/api/v1/ingest/upload/sessions", json=body, headers=who)

    refused = await send(greedy)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert (await send(other)).status_code == 201
    writer.close()

    async def given_back() -> bool:
        return (await send(greedy)).status_code == 201

    await until(given_back, "the upload that was cut off holds no place", 5)
    assert [(await begin(greedy)).status_code for _ in range(2)] == [201, 429]
    assert (await begin(other)).status_code == 201


async def test_cameras_that_are_kept_open(place: Place) -> None:
    one, two = await place.caller("admin"), await place.caller("admin")

    async def keep(who: dict[str, str], camera_id: str) -> httpx.Response:
        body = {"camera_id": camera_id, "rtsp_url": NOWHERE, "keep_open": True}
        return await place.client.post("/api/v1/cameras", headers=who, json=body)

    names = [unique() for _ in range(4)]
    assert [(await keep(one, name)).status_code for name in names[:2]] == [201, 201]
    refused = await keep(one, names[2])
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert (await place.client.get(f"/api/v1/cameras/{names[2]}", headers=one)).status_code == 404
    assert (await keep(two, names[3])).status_code == 201
    path = f"/api/v1/cameras/{names[0]}"
    assert (await place.client.patch(path, headers=one, json={"keep_open": False})).status_code == 200
    assert (await keep(one, names[2])).status_code == 201
    assert (await place.client.patch(path, headers=one, json={"keep_open": True})).status_code == 429
    caller = await place.caller()
    capture = await place.runs(caller)  # three of four are kept open: one is left, for anybody
    await place.client.post(f"/api/v1/ingest/requests/{capture}/cancel", headers=ADMIN)
    for name in names[1:]:
        await place.client.patch(f"/api/v1/cameras/{name}", headers=ADMIN, json={"keep_open": False})
