"""GET /api/v1/ws of real processes, by the library that users have."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed, InvalidStatus

from demo.camera import Camera
from tests.conftest import Backends, Service, running, unique
from tests.kits.live_client import SOCKET, Live, live
from tests.kits.service_support import all_frames, capture, final, jpeg, own_database, service_on, until, upload

BOOTSTRAP = "bootstrap-secret-of-the-websocket-tests-01"
ADMIN = {"Authorization": f"Bearer {BOOTSTRAP}"}
UPLOAD = ["request.started", "frame.stored", "request.completed"]
Opened = tuple[Service, httpx.AsyncClient]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def parts(backends: Backends) -> Backends:
    return await own_database(backends)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def opened(parts: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Opened]:
    """A service that the tests share, with access on."""
    settings = {
        "AUTH__MODE": "keys", "AUTH__BOOTSTRAP_KEY": BOOTSTRAP, "LOG__LEVEL": "DEBUG", "API__BODY_TIMEOUT": "2",
        "LIMITS__FAILED_LOGINS": "1000/minute",
    }  # fmt: skip
    service = service_on(parts, tmp_path_factory.mktemp("live"), **settings)
    async with running(service) as client:
        client.headers.update(ADMIN)
        yield service, client


@pytest.fixture
def client(opened: Opened) -> httpx.AsyncClient:
    return opened[1]


async def key(client: httpx.AsyncClient, *scopes: str, cameras: list[str] | None = None, **more: Any) -> str:
    body = {"name": "live", "scopes": list(scopes), "cameras": cameras, **more}
    return str((await client.post("/api/v1/api-keys", json=body)).raise_for_status().json()["key"])


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


async def ticket(client: httpx.AsyncClient, **headers: str) -> str:
    answer = await client.post("/api/v1/ws/tickets", headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["ticket"])


async def refused(client: httpx.AsyncClient, path: str = SOCKET, **options: Any) -> tuple[int, dict[str, Any]]:
    """(status, problem) of a handshake that is not accepted."""
    with pytest.raises(InvalidStatus) as told:
        async with live(client, path, **options):
            pass
    response = told.value.response
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-Request-ID"]
    return response.status_code, json.loads(response.body or b"")


async def test_events_come_as_they_happen_and_again_from_a_cursor(client: httpx.AsyncClient) -> None:
    camera = unique("live")
    async with live(client) as one:
        assert one.connection.subprotocol == "trackshift.v1"
        told = await one.subscribe(camera_ids=[camera])
        assert told["op"] == "subscribed"
        request_id = (await upload(client, camera, jpeg())).json()["request_id"]
        events = [await one.event() for _ in UPLOAD]
        assert [event["type"] for event in events] == UPLOAD
        assert {event["data"]["request_id"] for event in events} == {request_id}
        read = (await client.get("/api/v1/events", params={"camera_id": camera})).json()["items"]
        assert events == read  # the very same, as GET /events has them
        # From the first one's cursor on: the rest again, then what comes now, none twice.
        await one.subscribe("b", camera_ids=[camera], after=events[0]["id"])
        await upload(client, camera, jpeg())
        by: dict[str, list[str]] = {"a": [], "b": []}
        while len(by["a"]) < 3 or len(by["b"]) < 5:
            message = await one.until(lambda item: item["op"] == "event")
            by[message["id"]].append(message["event"]["type"])
        assert by == {"a": UPLOAD, "b": UPLOAD[1:] + UPLOAD}
        await one.subscribe("c", camera_ids=[camera], after="oldest", types=["frame.stored"])
        assert [(await one.event())["type"] for _ in range(2)] == ["frame.stored"] * 2
        await one.send(op="unsubscribe", id="a")
        await one.send(op="unsubscribe", id="b")
        await one.send(op="ping")
        await one.until(lambda item: item["op"] == "pong")
        heard = len(one.heard)
        await upload(client, camera, jpeg())
        assert (await one.until(lambda item: item["op"] == "event"))["id"] == "c"
        assert {item["id"] for item in one.heard[heard:]} == {"c"}


async def test_many_writers_and_readers_from_anywhere_none_misses_or_doubles(client: httpx.AsyncClient) -> None:
    """Subscriptions that begin at every moment of a storm get the same events in the same order."""
    camera = unique("storm")
    first = (await client.get("/api/v1/events", params={"after": "latest"})).json()["next_cursor"]
    picture, wanted = jpeg((64, 48)), 3 * 40

    async def write() -> None:
        for _ in range(10):
            assert (await upload(client, camera, picture)).status_code == 201

    writing = asyncio.gather(*(write() for _ in range(4)))

    async def read(one: Live, delay: float) -> list[str]:
        await asyncio.sleep(delay)
        await one.subscribe(camera_ids=[camera], after=first)
        return [(await one.event(60))["id"] for _ in range(wanted)]

    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(live(client)) for _ in range(6)]
        found = await asyncio.gather(*(read(one, 0.1 * number) for number, one in enumerate(readers)))
    await writing
    query = {"camera_id": camera, "after": first, "limit": "1000"}
    log = [event["id"] for event in (await client.get("/api/v1/events", params=query)).json()["items"]]
    assert len(log) == wanted
    for ids in found:
        assert ids == log


async def test_progress_of_a_capture_until_its_end(client: httpx.AsyncClient) -> None:
    camera = unique("progress")
    with Camera(size=(320, 180), fps=10, bitrate=300_000) as source:
        async with live(client) as one:
            await one.subscribe(camera_ids=[camera], types=["request.completed"], progress=True)
            request_id = await capture(
                client, camera, source.url, capture_mode="continuous", capture_duration=3, fps=5, sampling="exact"
            )
            times: list[float] = []
            while True:
                message = await one.until(lambda item: item["op"] == "progress")
                assert message["request_id"] == request_id
                times.append(time.monotonic())
                if message["status"] != "in_progress":
                    break
            status = await final(client, request_id)
            assert (message["status"], message["progress"]) == (status["status"], status["progress"])
            assert message["progress"]["stored"] == 15
            spaces = [b - a for a, b in pairwise(times)]
            assert len(times) >= 3
            assert sum(spaces) / len(spaces) >= 0.45, spaces  # at most twice a second
            # One that is over is told once, to whoever names it.
            await one.subscribe("b", request_ids=[request_id], types=[], progress=True)
            told = await one.until(lambda item: item["op"] == "progress")
            assert (told["id"], told["status"]) == ("b", "completed")


async def test_only_what_was_granted(client: httpx.AsyncClient) -> None:
    mine, alien = unique("mine"), unique("alien")
    narrow = await key(client, "events:read", cameras=[mine])
    async with live(client, headers=bearer(narrow)) as one, live(client) as all_of_it:
        await one.subscribe(progress=True)
        await one.subscribe("named", camera_ids=[mine, alien])
        await all_of_it.subscribe(camera_ids=[mine, alien])
        hidden = (await upload(client, alien, jpeg())).json()["request_id"]
        await one.subscribe("request", request_ids=[hidden], after="oldest", progress=True)
        await upload(client, mine, jpeg())
        for _ in range(6):
            await one.event()
        for _ in range(6):
            await all_of_it.event()
        await asyncio.sleep(1.2)  # two looks at progress
        await one.send(op="ping")
        await one.until(lambda item: item["op"] == "pong")
        assert alien not in json.dumps(one.heard)
        assert hidden not in json.dumps(one.heard)
        assert hidden in json.dumps(all_of_it.heard)


async def test_handshakes_that_are_refused(client: httpx.AsyncClient) -> None:
    none: dict[str, Any] = {"headers": {"X-Nothing": "1"}}
    status, problem = await refused(client, **none)
    assert (status, problem["code"]) == (401, "unauthorized")
    assert (await refused(client, headers=bearer("nonsense")))[0] == 401
    assert (await refused(client, SOCKET + "?ticket=nonsense", **none))[0] == 401
    status, problem = await refused(client, headers=bearer(await key(client, "frames:read")))
    assert (status, problem["code"]) == (403, "forbidden")
    status, problem = await refused(client, origin="https://elsewhere.example")
    assert (status, problem["code"]) == (403, "forbidden")
    cookie = (await client.post("/api/v1/session", json={"credential": BOOTSTRAP})).headers["set-cookie"].partition(";")[0]
    client.cookies.clear()
    assert (await refused(client, headers={"Cookie": cookie}))[0] == 401  # a page elsewhere could have it sent
    plain = await client.get(SOCKET)
    assert (plain.status_code, plain.json()["code"]) == (426, "upgrade_required")
    own = str(client.base_url).rstrip("/").replace("localhost", "127.0.0.1")
    async with live(client, origin=own):
        pass


async def test_a_ticket_opens_once_and_is_never_in_the_log(opened: Opened) -> None:
    service, client = opened
    camera, other = unique("ticket"), unique("other")
    text = await key(client, "events:read", cameras=[camera])
    first = await ticket(client, **bearer(text))
    none = {"headers": {"X-Nothing": "1"}}
    async with live(client, f"{SOCKET}?ticket={first}", **none) as one:
        await one.subscribe()
        await upload(client, other, jpeg())
        await upload(client, camera, jpeg())
        assert (await one.event())["cameraid"] == camera  # with the grants of who asked
        assert (await refused(client, f"{SOCKET}?ticket={first}", **none))[0] == 401
        # It ends with the key that asked for it.
        await client.delete(f"/api/v1/api-keys/{text[4:16]}")
        assert await one.closed(5) == 4401
    late = await ticket(client)
    assert (await client.post("/api/v1/ws/tickets", headers=bearer(await key(client, "frames:read")))).status_code == 403
    db = service.environment
    connection = await asyncpg.connect(
        host=db["DB__HOST"], port=int(db["DB__PORT"]), user=db["DB__USER"], database=db["DB__NAME"],
        password=db.get("DB__PASSWORD") or None,
    )  # fmt: skip
    try:
        rows = await connection.fetch("SELECT id FROM ws_tickets")
        assert late not in str(rows)  # a hash of it
        await connection.execute("UPDATE ws_tickets SET expires_at = now() - interval '1 second'")
        assert (await refused(client, f"{SOCKET}?ticket={late}", **none))[0] == 401
        fresh = await ticket(client)
        assert len(await connection.fetch("SELECT id FROM ws_tickets")) == 1  # the old one is swept
        async with live(client, f"{SOCKET}?ticket={fresh}", **none) as one:
            await one.subscribe()
    finally:
        await connection.close()
    log = service.text()
    assert '"level":"debug"' in log.replace(" ", "")
    for secret in (first, late, fresh, BOOTSTRAP, text):
        assert secret not in log


async def test_a_session_of_a_browser_asks_for_its_ticket(client: httpx.AsyncClient) -> None:
    async with httpx.AsyncClient(base_url=client.base_url) as browser:
        (await browser.post("/api/v1/session", json={"credential": BOOTSTRAP})).raise_for_status()
        assert (await browser.post("/api/v1/ws/tickets")).json()["code"] == "csrf_failed"
        token = (await browser.get("/api/v1/me")).json()["csrf_token"]
        given = await ticket(browser, **{"X-CSRF-Token": token})
        async with live(browser, f"{SOCKET}?ticket={given}") as one:
            await one.subscribe()
            await browser.delete("/api/v1/session", headers={"X-CSRF-Token": token})
            assert await one.closed(5) == 4401


async def test_a_page_that_connects_again_and_again_does_not_fill_the_audit(client: httpx.AsyncClient) -> None:
    text = await key(client, "events:read")
    async with httpx.AsyncClient(base_url=client.base_url) as browser:
        (await browser.post("/api/v1/session", json={"credential": text})).raise_for_status()
        token = {"X-CSRF-Token": (await browser.get("/api/v1/me")).json()["csrf_token"]}
        for _ in range(3):
            await ticket(browser, **token)
        await browser.delete("/api/v1/session", headers=token)
    await ticket(client, **bearer(text))  # a key's own is written down
    answer = await client.get("/api/v1/audit", params={"subject": text[4:16]})
    actions = [row["action"] for row in answer.raise_for_status().json()["items"]]
    assert actions == ["ticket.create", "session.delete", "session.create"]


async def test_credentials_that_end_close_their_sockets(client: httpx.AsyncClient) -> None:
    from datetime import UTC, datetime, timedelta

    soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    expiring, revoked = await key(client, "events:read", expires_at=soon), await key(client, "events:read")
    async with live(client, headers=bearer(expiring)) as first, live(client, headers=bearer(revoked)) as second:
        await first.subscribe()
        await second.subscribe()
        assert await first.closed(6) == 4401
        began = time.monotonic()
        await client.delete(f"/api/v1/api-keys/{revoked[4:16]}")
        assert await second.closed(6) == 4401
        assert time.monotonic() - began < 4  # 2 s, and room for a busy machine


async def test_wrong_messages_are_told_and_the_connection_stays(client: httpx.AsyncClient) -> None:
    async with live(client) as one:
        for text in ("{", "[]", '"x"', '{"op": "nonsense"}', '{"op": "subscribe"}', '{"op": "ping", "more": 1}',
                     '{"op": "subscribe", "id": "a", "types": ["nonsense"]}', '{"op": "ping", "op": "ping"}',
                     '{"op": "subscribe", "id": "a", "after": "nonsense"}', '{"op": "unsubscribe", "id": "never"}',
                     '{"op": "subscribe", "id": "a", "progress": 1}', '{"op": "subscribe", "id": 7}'):  # fmt: skip
            await one.connection.send(text)
            told = await one.next()
            assert told["op"] == "error", text
            assert told["code"] in ("malformed_request", "invalid_request"), told
            assert "nonsense" not in told["detail"]
        await one.connection.send(b"\x00\x01")
        assert (await one.next())["code"] == "malformed_request"
        for number in range(32):
            assert (await one.subscribe(f"s{number}", camera_ids=["none"]))["op"] == "subscribed"
        assert (await one.subscribe("s32"))["code"] == "invalid_request"
        assert (await one.subscribe("s1"))["code"] == "invalid_request"
        old = "00000000-0000-0000-0000-000000000000.1"
        await one.send(op="unsubscribe", id="s0")
        await one.send(op="subscribe", id="old", after=old)
        expired = await one.until(lambda item: item["op"] == "error")
        assert (expired["id"], expired["code"]) == ("old", "cursor_expired")
        assert expired["oldest_cursor"]
        assert (await one.subscribe("old", after=expired["oldest_cursor"]))["op"] == "subscribed"
    async with live(client) as large:
        await large.connection.send(json.dumps({"op": "ping", "x": "y" * 70_000}))
        assert await large.closed() == 1009


async def test_a_client_that_does_not_read_is_closed_with_1013_and_holds_up_nobody(client: httpx.AsyncClient) -> None:
    camera = unique("deaf")
    meta = json.dumps({"extra": {"text": "x" * 15_000}})
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 262_144)  # before it connects: the window is made of it
    deaf.connect((client.base_url.host, client.base_url.port))
    given = ADMIN["Authorization"]
    head = f"GET {SOCKET} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nAuthorization: {given}\r\n\r\n"
    deaf.sendall(head.encode())
    await asyncio.to_thread(deaf.recv, 4096)
    picture = jpeg((64, 48))
    for _ in range(5):  # of each three events of 15 KB, for 32 subscriptions: more than the system's buffers take
        assert (await upload(client, camera, picture, meta=meta)).status_code == 201
    for number in range(32):
        asked = {"op": "subscribe", "id": str(number), "camera_ids": [camera], "after": "oldest"}
        text = json.dumps(asked).encode()
        assert len(text) < 126
        deaf.sendall(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)  # masked with zeros
    async with live(client) as reader:
        await reader.subscribe(camera_ids=[camera])
        await upload(client, camera, picture)
        assert (await reader.event())["cameraid"] == camera

        async def closed() -> bool:
            metrics = (await client.get("/metrics")).text
            return 'ingestion_websockets_closed_total{code="1013"} 1.0' in metrics

        await until(closed, "the deaf client is closed", 60, 0.2)  # what it reads within 10 s from now on, it gets
    rest = b""

    def drain() -> bytes:
        nonlocal rest
        deaf.settimeout(20)
        while data := deaf.recv(65536):
            rest += data
        return rest

    whole = await asyncio.to_thread(drain)
    deaf.close()
    assert bytes.fromhex("03f5") in whole[-200:]  # 1013: what waited, then the reason


async def test_the_stop_of_a_service_and_a_bound_of_sockets(parts: Backends, tmp_path: Path) -> None:
    """Access off: nobody is asked."""
    service = service_on(parts, tmp_path, EVENTS__MAX_SOCKETS="2")
    async with running(service) as client, live(client) as first, live(client) as second:
        await first.subscribe()
        await second.subscribe()
        status, problem = await refused(client)
        assert (status, problem["code"]) == (503, "overloaded")
        assert (await client.get("/api/v1/events")).status_code == 200
        stopping = asyncio.create_task(asyncio.to_thread(service.stop))
        assert await first.closed() in (1001, 1012)
        assert await second.closed() in (1001, 1012)
        await stopping


async def test_a_restart_loses_nothing_for_a_client_that_comes_back(parts: Backends, tmp_path: Path) -> None:
    camera, seen = unique("back"), []
    service = service_on(parts, tmp_path)
    async with running(service) as client, live(client) as one:
        await one.subscribe(camera_ids=[camera])
        await upload(client, camera, jpeg())
        seen += [await one.event() for _ in UPLOAD]
        service.kill()
        with pytest.raises(ConnectionClosed):
            await one.next()
    (tmp_path / "again").mkdir()
    again = service_on(parts, tmp_path / "again")
    async with running(again) as client:
        await upload(client, camera, jpeg())
        async with live(client) as one:
            await one.subscribe(camera_ids=[camera], after=seen[-1]["id"])
            seen += [await one.event() for _ in UPLOAD]
        frames = {event["data"]["frame_id"] for event in seen if event["type"] == "frame.stored"}
        assert len(frames) == 2
        assert len({event["id"] for event in seen}) == len(seen) == 6
        assert len(await all_frames(client, seen[0]["data"]["request_id"])) == 1
