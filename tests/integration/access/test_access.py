"""Access control against a running service: every route, every scope, and nothing of a camera that was not granted."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
import pytest_asyncio

from docs.access_matrix import NO_CAMERA, Line, lines
from models.access import Scope
from tests.conftest import Backends, running, unique
from tests.kits.forked import run_command
from tests.kits.service_support import jpeg, own_database, service_on, until, upload

BOOTSTRAP = "bootstrap-secret-of-the-access-tests-0123"
MATRIX = lines()
ADMIN = {"Authorization": f"Bearer {BOOTSTRAP}"}
NARROW = [scope.value for scope in Scope if scope not in (Scope.ADMIN, Scope.METRICS_READ)]
NOWHERE = "rtsp://127.0.0.1:9/nothing"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@dataclass
class Camera:
    """A camera and what there is of it."""

    camera_id: str
    request_id: str = ""
    frame_id: str = ""
    capture_id: str = ""
    group_id: str = ""
    session_id: str = ""
    pair_id: str = ""
    storage_path: str = ""
    storage_url: str = ""

    @property
    def traces(self) -> list[str]:
        """What nobody may see who was not given the camera."""
        return [
            self.camera_id, self.request_id, self.frame_id, self.capture_id, self.group_id, self.session_id,
            self.pair_id, self.storage_path,
        ]  # fmt: skip


AT = "2026-05-04T13:30:00Z"


@dataclass
class Place:
    client: httpx.AsyncClient
    dsn: dict[str, Any]
    mine: Camera
    alien: Camera
    picture: bytes
    environment: dict[str, str]
    keys: dict[tuple[str, ...], str] = field(default_factory=dict)

    async def key(self, *scopes: str, cameras: list[str] | None = None) -> str:
        name = (*scopes, repr(cameras))
        if name not in self.keys:
            answer = await self.client.post(
                "/api/v1/api-keys", headers=ADMIN, json={"name": "test", "scopes": list(scopes), "cameras": cameras}
            )
            assert answer.status_code == 201, answer.text
            self.keys[name] = answer.json()["key"]
        return self.keys[name]

    def call(self, line: Line, camera: Camera) -> dict[str, Any]:
        """httpx's arguments of a good request that names this camera, or what is of it."""
        ids = {
            "{camera_id}": camera.camera_id, "{frame_id}": camera.frame_id, "{group_id}": camera.group_id,
            "{session_id}": camera.session_id, "{pair_id}": camera.pair_id, "{key_id}": "0" * 12, "{name}": "none.js",
            "{request_id}": camera.request_id if line.operation == "get_request" else camera.capture_id,
        }  # fmt: skip
        path = line.path
        for name, value in ids.items():
            path = path.replace(name, value)
        bodies: dict[str, dict[str, Any]] = {
            "submit_capture": {"json": {"camera_id": camera.camera_id, "rtsp_url": NOWHERE}},
            "take_burst": {"json": {"camera_ids": [camera.camera_id, self.mine.camera_id]}},
            "upload_images": {
                "data": {"camera_id": camera.camera_id},
                "files": [("files", ("a.jpg", self.picture, "image/jpeg"))],
            },
            "open_upload_session": {"json": {"camera_id": camera.camera_id, "filename": "a.jpg", "size_bytes": 99}},
            "create_camera": {"json": {"camera_id": camera.camera_id, "rtsp_url": NOWHERE}},
            "update_camera": {"json": {"description": "changed"}},
            "probe_url": {"json": {"rtsp_url": NOWHERE}},
            "discover_cameras": {"json": {"timeout_s": 0.1}},
            "nearest_frame": {"params": {"camera_id": camera.camera_id, "at": "2026-05-04T13:30:00Z"}},
            "frames_histogram": {
                "params": {"camera_id": camera.camera_id, "from": AT, "to": "2026-05-04T13:40:00Z", "bucket_s": "300"}
            },
            "camera_losses": {"params": {"from": AT, "to": "2026-05-04T13:40:00Z", "bucket_s": "300"}},
            "create_api_key": {"json": {"name": "x", "scopes": ["frames:read"]}},
            "create_pair": {
                "json": {"before": {"frame_id": self.mine.frame_id}, "after": {"camera_id": camera.camera_id, "at": AT}}
            },
            "match_pairs": {"json": {"before": {"camera_ids": [camera.camera_id]}, "after": {"phase": "after"}}},
            "open_session": {"json": {"credential": "nonsense"}},
        }
        return {"method": line.method, "url": path, **bodies.get(line.operation, {})}


def told(answer: httpx.Response) -> str:
    """Everything that an answer says, but for the path that the caller wrote itself."""
    text = answer.text
    if answer.headers.get("content-type") == "application/problem+json":
        body = answer.json()
        body.pop("instance")
        text = json.dumps(body)
    return text + json.dumps(dict(answer.headers))


async def _camera(client: httpx.AsyncClient, picture: bytes) -> Camera:
    camera = Camera(unique("cam"))
    body = {"camera_id": camera.camera_id, "rtsp_url": NOWHERE}
    assert (await client.post("/api/v1/cameras", json=body)).status_code == 201
    stored = (await upload(client, camera.camera_id, picture)).raise_for_status().json()
    frame = stored["frames"][0]
    camera.request_id, camera.frame_id = stored["request_id"], frame["frame_id"]
    camera.storage_path, camera.storage_url = frame["storage_path"], frame["storage_url"]
    later = (await upload(client, camera.camera_id, picture)).raise_for_status().json()["frames"][0]["frame_id"]
    pair = {"before": {"frame_id": camera.frame_id}, "after": {"frame_id": later}, "align": False}
    camera.pair_id = (await client.post("/api/v1/pairs", json=pair)).raise_for_status().json()["pair_id"]
    running_capture = {"camera_id": camera.camera_id, "capture_mode": "event_driven", "rtsp_url": NOWHERE}
    accepted = await client.post("/api/v1/ingest/rtsp", json=running_capture)
    camera.capture_id = accepted.raise_for_status().json()["request_id"]
    session = {"camera_id": camera.camera_id, "filename": "b.jpg", "size_bytes": 1000}
    opened = await client.post("/api/v1/ingest/upload/sessions", json=session)
    camera.session_id = opened.raise_for_status().json()["session_id"]
    other = f"{camera.camera_id}-other"
    assert (await client.post("/api/v1/cameras", json={"camera_id": other, "rtsp_url": NOWHERE})).status_code == 201
    burst = await client.post("/api/v1/ingest/burst", json={"camera_ids": [camera.camera_id, other]})
    camera.group_id = burst.json()["group_id"]
    return camera


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    own = await own_database(backends)
    settings = {
        "AUTH__MODE": "keys", "AUTH__BOOTSTRAP_KEY": BOOTSTRAP, "RTSP__CAPTURE_TIMEOUT": "1", "LIMITS__FAILED_LOGINS":
        "1000/minute", "LOG__LEVEL": "DEBUG",
    }  # fmt: skip
    service = service_on(own, tmp_path_factory.mktemp("access"), **settings)
    async with running(service) as client:
        picture = jpeg()
        client.headers.update(ADMIN)
        mine, alien = await _camera(client, picture), await _camera(client, picture)
        client.headers.pop("Authorization")
        dsn = {
            "host": own.db.HOST, "port": own.db.PORT, "user": own.db.USER, "database": own.db.NAME,
            "password": own.db.PASSWORD.get_secret_value() or None,
        }  # fmt: skip
        yield Place(client, dsn, mine, alien, picture, service.environment)


@pytest.mark.parametrize("line", MATRIX, ids=lambda line: f"{line.method} {line.path}")
async def test_without_a_credential_and_without_the_scope(place: Place, line: Line) -> None:
    call = place.call(line, place.mine)
    if line.rule.public:
        answer = await place.client.request(**call)
        assert answer.status_code != 403
        assert (answer.status_code == 401) == (line.operation == "open_session")
        return
    answer = await place.client.request(**call)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="trackshift"'
    wrong = await place.client.request(**call, headers=bearer("tsk_000000000000_" + "0" * 38))
    assert wrong.status_code == 401
    assert wrong.headers["WWW-Authenticate"] == 'Bearer realm="trackshift", error="invalid_token"'
    if not line.rule.scopes:
        return
    for scope in Scope:
        if scope in line.rule.scopes or scope is Scope.ADMIN:
            continue
        refused = await place.client.request(**call, headers=bearer(await place.key(scope.value)))
        assert refused.status_code == 403, (scope, refused.text)
        assert refused.json()["code"] == "forbidden"
        needed = " ".join(line.rule.scopes)
        assert refused.headers["WWW-Authenticate"] == (
            f'Bearer realm="trackshift", error="insufficient_scope", scope="{needed}"'
        )


@pytest.mark.parametrize(
    "line", [line for line in MATRIX if line.alien != NO_CAMERA], ids=lambda line: f"{line.method} {line.path}"
)
async def test_another_camera_is_not_there(place: Place, line: Line) -> None:
    headers = bearer(await place.key(*NARROW, cameras=[place.mine.camera_id]))
    answer = await place.client.request(**place.call(line, place.alien), headers=headers)
    wanted = 200 if line.alien == "absent" else int(line.alien[:3])
    assert answer.status_code == wanted, answer.text
    for trace in place.alien.traces:
        assert trace not in told(answer), line.operation
    if line.alien == "absent":
        assert place.mine.camera_id in answer.text
    if line.alien == "404":  # alien and unknown are answered alike
        nobody = Camera("no-such-camera", *[str(uuid4()) for _ in range(6)])
        unknown = await place.client.request(**place.call(line, nobody), headers=headers)
        assert (unknown.status_code, unknown.json()["code"]) == (404, answer.json()["code"])
        assert unknown.json()["detail"] == answer.json()["detail"]
    if wanted == 204:
        frame = await place.client.get(f"/api/v1/frames/{place.alien.frame_id}", headers=ADMIN)
        assert frame.status_code == 200
        session = await place.client.get(f"/api/v1/ingest/upload/sessions/{place.alien.session_id}", headers=ADMIN)
        assert session.json()["status"] == "open", session.text


async def test_filters_and_streams_give_nothing_of_it(place: Place) -> None:
    headers = bearer(await place.key(*NARROW, cameras=[place.mine.camera_id]))
    for path in ("/api/v1/frames", "/api/v1/ingest/requests", "/api/v1/events"):
        answer = await place.client.get(path, params={"camera_id": place.alien.camera_id}, headers=headers)
        assert answer.status_code == 200
        assert (answer.json()["items"], answer.json().get("next_cursor") is None) in (([], True), ([], "events" not in path))
    for query in ({"request_id": place.alien.request_id},):
        assert (await place.client.get("/api/v1/frames", params=query, headers=headers)).json()["items"] == []
    received = ""
    async with place.client.stream("GET", "/api/v1/events", headers={**headers, "Accept": "text/event-stream"}) as stream:
        async for text in stream.aiter_text():
            received += text
            if place.mine.frame_id in received:
                break
    assert not [trace for trace in place.alien.traces if trace in received]


async def test_a_prefix_and_nothing_else(place: Place) -> None:
    headers = bearer(await place.key("frames:read", cameras=[place.mine.camera_id[:-1] + "*"]))
    found = (await place.client.get("/api/v1/frames", headers=headers)).json()["items"]
    assert {item["camera_id"] for item in found} == {place.mine.camera_id}
    none = bearer(await place.key("frames:read", cameras=[]))
    assert (await place.client.get("/api/v1/frames", headers=none)).json()["items"] == []


async def test_urls_are_for_those_who_may_read_them(place: Place) -> None:
    path = f"/api/v1/ingest/status/{place.mine.request_id}"
    without = (await place.client.get(path, headers=bearer(await place.key("ingest:read")))).json()["frames"][0]
    assert (without["storage_url"], without["url_expires_at"]) == (None, None)
    both = (await place.client.get(path, headers=bearer(await place.key("ingest:read", "frames:read")))).json()
    assert both["frames"][0]["storage_url"].startswith("http")
    capture = f"/api/v1/ingest/status/{place.mine.capture_id}"
    hidden = (await place.client.get(capture, headers=bearer(await place.key("ingest:read")))).json()
    assert hidden["source"]["url"] is None
    seen = (await place.client.get(capture, headers=bearer(await place.key("ingest:read", "cameras:read")))).json()
    assert seen["source"]["url"] == NOWHERE


async def test_a_replay_is_the_callers_own(place: Place) -> None:
    """Another principal with the same key text runs a request of its own; a narrower one sees no URLs."""

    async def send(key: str) -> httpx.Response:
        headers = {**bearer(key), "Idempotency-Key": "shared"}
        files = [("files", ("a.jpg", place.picture, "image/jpeg"))]
        return await place.client.post(
            "/api/v1/ingest/upload", data={"camera_id": place.mine.camera_id}, files=files, headers=headers
        )

    writer = await place.key("ingest:write", cameras=[place.mine.camera_id])
    other = await place.key("ingest:write", "frames:read", cameras=[place.mine.camera_id])
    first, second, again = await send(writer), await send(other), await send(writer)
    assert first.json()["request_id"] != second.json()["request_id"]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == first.json()
    assert again.json()["frames"][0]["storage_url"] is None
    assert second.json()["frames"][0]["storage_url"] is not None
    async with Sql(place) as connection:  # narrowed: the kept answer is not his any more
        await connection.execute("UPDATE api_keys SET cameras = '{other}' WHERE key_id = $1", other[4:16])
    await asyncio.sleep(2)
    assert (await send(other)).status_code == 403


async def test_cursors_belong_to_their_principal(place: Place) -> None:
    for _ in range(2):
        await place.client.post(
            "/api/v1/ingest/rtsp", headers=ADMIN, json={"camera_id": place.mine.camera_id, "rtsp_url": NOWHERE}
        )
    reader, other = await place.key("ingest:read"), await place.key("ingest:read", "cameras:read")
    page = (await place.client.get("/api/v1/ingest/requests?limit=1", headers=bearer(reader))).json()
    query = {"limit": "1", "cursor": page["next_cursor"]}
    assert (await place.client.get("/api/v1/ingest/requests", params=query, headers=bearer(reader))).status_code == 200
    assert (await place.client.get("/api/v1/ingest/requests", params=query, headers=bearer(other))).status_code == 422


async def test_a_forged_cursor_of_any_content_is_422(place: Place) -> None:
    """Of every list, with what a genuine one of it looks like, and with what breaks decoders."""
    rng = random.Random(12)
    genuine = (await place.client.get("/api/v1/audit?limit=1", headers=ADMIN)).json()["next_cursor"]
    assert genuine is not None

    def packed(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    content = base64.urlsafe_b64decode(genuine + "=" * (-len(genuine) % 4))
    forged = ["x", "A" * 100, "%00", "9" * 500, "ü", "\x00", "null", "{}", "=", "..", genuine[:-2], genuine + "A", ""]
    values: list[Any] = [{}, [], None, 1e400, ["9999-12-31", "x"], [[[]]]]
    forged += [packed(json.dumps(value).encode()) for value in values]
    forged += [packed(rng.randbytes(size)) for size in (1, 16, 40, len(content), 400)]
    for _ in range(10):
        changed = bytearray(content)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        forged.append(packed(bytes(changed)))
    lists = [line.path for line in MATRIX if line.path.endswith(("/cameras", "/frames", "/requests", "/api-keys", "/audit"))]
    paths = {*lists, f"/api/v1/ingest/requests/{place.mine.capture_id}/events"}
    assert len(paths) == 6, paths
    for path in sorted(paths):
        for cursor in forged:
            answer = await place.client.get(path, params={"cursor": cursor}, headers=ADMIN)
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), (path, cursor, answer.text)
    for cursor in forged:
        answer = await place.client.get("/api/v1/events", params={"after": cursor}, headers=ADMIN)
        assert answer.status_code == 422, (cursor, answer.text)


async def test_keys_from_their_making_to_their_end(place: Place) -> None:
    async def make(**body: Any) -> httpx.Response:
        headers = {**ADMIN, "Idempotency-Key": "the-same"}
        return await place.client.post("/api/v1/api-keys", headers=headers, json={"name": "life", **body})

    async def holds(key: str) -> bool:
        answer = await place.client.get("/api/v1/me", headers=bearer(key))
        assert answer.status_code in (200, 401)
        return answer.status_code == 200

    soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    made = (await make(scopes=["frames:read"], cameras=["a", "b-*"], expires_at=soon)).json()
    short = made["key"]
    assert made["key_id"] == short[4:16]
    assert await holds(short)
    other = (await make(scopes=["frames:read"])).json()
    assert other["key"] != short  # never kept by an Idempotency-Key
    async with Sql(place) as connection:
        kept = await connection.fetchval("SELECT string_agg(to_jsonb(k)::text, '') FROM api_keys k")
    assert hashlib.sha256(other["key"].encode()).hexdigest() in kept
    assert other["key"].rpartition("_")[2] not in kept
    refused: list[dict[str, Any]] = [
        {"scopes": ["admin"], "cameras": ["a"]}, {"scopes": ["metrics:read"], "cameras": []}, {"scopes": []},
        {"scopes": ["frames:read"], "cameras": ["*a"]}, {"scopes": ["frames:read"], "expires_at": "2020-01-01T00:00:00Z"},
        {"scopes": ["root"]},
    ]  # fmt: skip
    for wrong in refused:
        assert (await make(**wrong)).status_code == 422, wrong
    path = f"/api/v1/api-keys/{other['key_id']}"
    again = (await place.client.post(f"{path}/rotate", headers=ADMIN)).json()
    assert (again["key_id"], again["key"] == other["key"]) == (other["key_id"], False)
    assert [await holds(key) for key in (again["key"], other["key"])] == [True, True]  # the former one for 24 h
    async with Sql(place) as connection:
        left = await connection.fetchval(
            "SELECT extract(epoch FROM previous_until - now()) FROM api_keys WHERE key_id = $1", other["key_id"]
        )
        assert 23.9 * 3600 < left <= 24 * 3600
        await connection.execute("UPDATE api_keys SET previous_until = now() WHERE key_id = $1", other["key_id"])

    async def ended(key: str) -> bool:
        return not await holds(key)

    await until(lambda: ended(other["key"]), "the former secret ends", 2)
    assert await holds(again["key"])
    shown = (await place.client.get(path, headers=ADMIN)).json()
    assert "key" not in shown
    assert shown["name"] == "life"
    async with httpx.AsyncClient(base_url=place.client.base_url) as browser:
        assert (await browser.post("/api/v1/session", json={"credential": again["key"]})).status_code == 204
        assert (await browser.get("/api/v1/me")).status_code == 200
        assert (await place.client.delete(path, headers=ADMIN)).status_code == 204
        assert not await holds(again["key"])
        assert (await browser.get("/api/v1/me")).status_code == 401  # it ends with its credential
    assert (await place.client.get(path, headers=ADMIN)).json()["revoked_at"] is not None
    assert (await place.client.post(f"{path}/rotate", headers=ADMIN)).status_code in (404, 409)
    await until(lambda: ended(short), "it expires", 4)


async def test_keys_by_command(place: Place) -> None:
    """What an operator types; its standard output is the key and nothing else."""

    async def command(*words: str) -> str:
        done = await asyncio.to_thread(run_command, place.environment, "keys", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    key = await command("create", "typed", "--scope", "frames:read", "--camera", place.mine.camera_id, "--expires", "1")
    me = (await place.client.get("/api/v1/me", headers=bearer(key))).raise_for_status().json()
    assert (me["subject"], me["scopes"], me["cameras"]) == (key[4:16], ["frames:read"], [place.mine.camera_id])
    await command("revoke", key[4:16])

    async def refused() -> bool:
        return (await place.client.get("/api/v1/me", headers=bearer(key))).status_code == 401

    await until(refused, "refused", 2)
    audit = (await place.client.get("/api/v1/audit", params={"action": "key.create"}, headers=ADMIN)).json()["items"]
    assert next(row["subject"] for row in audit if row["target"] == key[4:16]).startswith("command:")


async def test_an_upload_session_belongs_to_its_creator(place: Place) -> None:
    mine, same_camera = [
        bearer(await place.key("ingest:write", extra, cameras=[place.mine.camera_id]))
        for extra in ("ingest:read", "events:read")
    ]
    body = {"camera_id": place.mine.camera_id, "filename": "a.jpg", "size_bytes": 1000}
    opened = await place.client.post("/api/v1/ingest/upload/sessions", headers=mine, json=body)
    path = opened.headers["Location"]
    assert (await place.client.get(path, headers=mine)).status_code == 200
    assert (await place.client.get(path, headers=same_camera)).status_code == 404
    assert (await place.client.post(f"{path}/complete", headers=same_camera)).status_code == 404
    assert (await place.client.delete(path, headers=same_camera)).status_code == 204
    assert (await place.client.get(path, headers=mine)).json()["status"] == "open"


async def test_a_duplicate_of_another_camera_is_none(place: Place) -> None:
    """The same bytes are with both cameras; `duplicate_of` and the groups name one's own only."""
    headers = bearer(await place.key(*NARROW, cameras=[place.mine.camera_id]))
    files = [("files", ("a.jpg", place.picture, "image/jpeg"))]
    form = {"data": {"camera_id": place.mine.camera_id}, "files": files, "headers": headers}
    stored = (await place.client.post("/api/v1/ingest/upload", **form)).json()["frames"][0]  # type: ignore[arg-type]
    assert stored["duplicate_of"] == place.mine.frame_id
    group = await place.client.get(f"/api/v1/ingest/burst/{place.mine.group_id}", headers=headers)
    assert [item["camera_id"] for item in group.json()["results"]] == [place.mine.camera_id]
    assert f"{place.mine.camera_id}-other" not in group.text


class Sql:
    def __init__(self, place: Place) -> None:
        self.place = place

    async def __aenter__(self) -> Any:
        self.connection = await asyncpg.connect(**self.place.dsn)
        return self.connection

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()


async def test_the_audit_has_every_write_and_cannot_be_changed(place: Place) -> None:
    key = await place.key("frames:read", "frames:delete")
    stored = (await upload_as(place, BOOTSTRAP)).json()
    frame = stored["frames"][0]["frame_id"]
    assert (await place.client.delete(f"/api/v1/frames/{frame}", headers=bearer(key))).status_code == 204
    rows = (await place.client.get("/api/v1/audit", params={"subject": key[4:16]}, headers=ADMIN)).json()["items"]
    found = [(row["action"], row["target"], row["kind"], row["status"]) for row in rows]
    assert found == [("frame.delete", frame, "key", 204)]
    forged = {**bearer("nonsense"), "X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
    for _ in range(2):  # nobody is trusted to say whom he speaks for: uvicorn would believe anybody on loopback
        assert (await place.client.get("/api/v1/me", headers=forged)).status_code == 401
    await asyncio.sleep(1.5)
    query = {"action": "credential.refused"}
    refused = (await place.client.get("/api/v1/audit", params=query, headers=ADMIN)).json()["items"]
    named = [(row["address"], row["target"], row["at"][:16]) for row in refused]
    assert ("127.0.0.1", "unauthorized") in {name[:2] for name in named}
    assert len(named) == len(set(named))  # one an address, code and minute
    assert "203.0.113.9" not in {name[0] for name in named}
    async with Sql(place) as connection:
        for statement in ("UPDATE audit SET subject = 'x'", "DELETE FROM audit", "TRUNCATE audit"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)


async def test_every_kind_of_write_is_in_the_audit(place: Place) -> None:
    """Each operation that changes something, once, by one key; then the key's rows."""
    made = await place.client.post("/api/v1/api-keys", headers=ADMIN, json={"name": "writer", "scopes": ["admin"]})
    key = made.json()["key"]
    camera = unique()

    async def did(method: str, path: str, *statuses: int, **more: Any) -> Any:
        answer = await place.client.request(method, f"/api/v1/{path}", headers=bearer(key), **more)
        assert answer.status_code in (statuses or (200, 201, 202, 204)), answer.text
        return answer.json() if answer.content else None

    await did("POST", "cameras", json={"camera_id": camera, "rtsp_url": NOWHERE})
    await did("PATCH", f"cameras/{camera}", json={"description": "x"})
    files = [("files", ("a.jpg", jpeg(), "image/jpeg"))]
    frame = (await did("POST", "ingest/upload", data={"camera_id": camera}, files=files))["frames"][0]["frame_id"]
    await did("POST", f"frames/{frame}/hold", json={"reason": "x"})
    await did("DELETE", f"frames/{frame}/hold")
    await did("DELETE", f"frames/{frame}")
    body = {"camera_id": camera, "capture_mode": "event_driven"}
    capture = (await did("POST", "ingest/rtsp", json=body))["request_id"]

    async def runs() -> bool:
        return bool((await did("GET", f"ingest/status/{capture}"))["status"] == "in_progress")

    await until(runs, "it runs")
    await did("POST", f"ingest/requests/{capture}/trigger", json={})
    await did("POST", f"ingest/requests/{capture}/cancel")
    await did("POST", "ingest/burst", 502, 504, json={"camera_ids": [camera, place.mine.camera_id]})
    session = {"camera_id": camera, "filename": "a.jpg", "size_bytes": 1000}
    opened = (await did("POST", "ingest/upload/sessions", json=session))["session_id"]
    await did("DELETE", f"ingest/upload/sessions/{opened}")
    other = (await did("POST", "api-keys", json={"name": "x", "scopes": ["frames:read"]}))["key_id"]
    await did("POST", f"api-keys/{other}/rotate")
    await did("DELETE", f"api-keys/{other}")
    async with httpx.AsyncClient(base_url=place.client.base_url) as browser:
        assert (await browser.post("/api/v1/session", json={"credential": key})).status_code == 204
        token = {"X-CSRF-Token": (await browser.get("/api/v1/me")).json()["csrf_token"]}
        assert (await browser.delete("/api/v1/session", headers=token)).status_code == 204

    async def deleted() -> bool:
        answer = await place.client.delete(f"/api/v1/cameras/{camera}", headers=bearer(key))
        return answer.status_code == 204

    await until(deleted, "its captures have ended")
    query = {"subject": key[4:16], "limit": "200"}
    rows = (await place.client.get("/api/v1/audit", params=query, headers=ADMIN)).json()["items"]
    assert {row["action"] for row in rows} == {
        "camera.create", "camera.update", "camera.delete", "upload.store", "frame.hold", "frame.release", "frame.delete",
        "capture.submit", "capture.trigger", "capture.cancel", "burst.take", "upload_session.open", "upload_session.abort",
        "key.create", "key.rotate", "key.revoke", "session.create", "session.delete",
    }  # fmt: skip
    assert {row["address"] for row in rows} == {"127.0.0.1"}
    assert all(row["trace_id"] and row["status"] for row in rows)
    assert {row["target"] for row in rows if row["action"] == "session.delete"} == {None}
    assert not [row for row in rows if key.rpartition("_")[2] in json.dumps(row)]


async def upload_as(place: Place, key: str) -> httpx.Response:
    files = [("files", ("a.jpg", jpeg(), "image/jpeg"))]
    return await place.client.post(
        "/api/v1/ingest/upload", data={"camera_id": place.mine.camera_id}, files=files, headers=bearer(key)
    )


async def test_what_is_an_administrators(place: Place) -> None:
    headers = bearer(await place.key("cameras:write", "cameras:read", "ingest:write"))
    one = f"/api/v1/cameras/{place.mine.camera_id}"
    for change in ({"keep_open": True}, {"reader": "native"}, {"retention_days": 3}):
        assert (await place.client.patch(one, json=change, headers=headers)).status_code == 403
    same = {"keep_open": False, "description": "new"}
    assert (await place.client.patch(one, json=same, headers=headers)).status_code == 200
    writer = bearer(await place.key("ingest:write"))
    body = {"camera_id": place.mine.camera_id, "rtsp_url": "rtsp://127.0.0.1:10/other"}
    assert (await place.client.post("/api/v1/ingest/rtsp", json=body, headers=writer)).status_code == 403
    assert (await place.client.post("/api/v1/ingest/rtsp", json=body, headers=headers)).status_code == 202
    masked = {**body, "rtsp_url": NOWHERE}
    assert (await place.client.post("/api/v1/ingest/rtsp", json=masked, headers=writer)).status_code == 202


async def test_a_browser_session(place: Place) -> None:
    key = await place.key("frames:read", "events:read")
    async with httpx.AsyncClient(base_url=place.client.base_url) as browser:
        opened = await browser.post("/api/v1/session", json={"credential": key})
        assert opened.status_code == 204
        cookie = opened.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        me = (await browser.get("/api/v1/me")).json()
        assert (me["kind"], me["subject"]) == ("session", key[4:16])
        for site in ("cross-site", "same-site"):
            assert (await browser.get("/api/v1/me", headers={"Sec-Fetch-Site": site})).status_code == 401
        refused = await browser.delete("/api/v1/session")
        assert (refused.status_code, refused.json()["code"]) == (403, "csrf_failed")
        before_cookie = await browser.get("/api/v1/me", headers=bearer("nonsense"))
        assert before_cookie.status_code == 401
        token = {"X-CSRF-Token": me["csrf_token"]}
        assert (await browser.delete("/api/v1/session", headers=token)).status_code == 204
        browser.cookies.set("trackshift-session", cookie.partition(";")[0].partition("=")[2])
        assert (await browser.get("/api/v1/me")).status_code == 401


async def test_nothing_is_read_of_a_refused_body(place: Place) -> None:
    """The answer comes although the body never does."""
    url = place.client.base_url
    for head in (b"", b"Authorization: Bearer " + (await place.key("frames:read")).encode() + b"\r\n"):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(
            b"POST /api/v1/ingest/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=B\r\n"
            b"Content-Length: 1000000\r\n" + head + b"\r\n"
        )
        async with asyncio.timeout(5):
            status = await reader.readline()
        assert status.split()[1] in (b"401", b"403")
        writer.close()


async def test_open_streams_and_waits_end_with_their_key(place: Place) -> None:
    answer = await place.client.post(
        "/api/v1/api-keys", headers=ADMIN, json={"name": "short", "scopes": ["events:read", "ingest:read"]}
    )
    key, key_id = answer.json()["key"], answer.json()["key_id"]

    async def stream() -> float:
        headers = {**bearer(key), "Accept": "text/event-stream"}
        async with place.client.stream("GET", "/api/v1/events?after=latest", headers=headers) as events:
            async for _ in events.aiter_bytes():
                pass
        return time.monotonic()

    async def wait() -> float:
        path = f"/api/v1/ingest/status/{place.alien.capture_id}"
        ended = await place.client.get(path, headers={**bearer(key), "Prefer": "wait=30"})
        assert ended.status_code == 401
        return time.monotonic()

    tasks = [asyncio.create_task(stream()), asyncio.create_task(wait())]
    await asyncio.sleep(1)
    began = time.monotonic()
    assert (await place.client.delete(f"/api/v1/api-keys/{key_id}", headers=ADMIN)).status_code == 204
    seconds = [ended - began for ended in await asyncio.wait_for(asyncio.gather(*tasks), 10)]
    print(f"stream and wait ended {seconds[0]:.2f} s and {seconds[1]:.2f} s after the key was revoked")
    assert max(seconds) < 2


async def test_a_key_revoked_in_one_process_is_refused_by_the_other(backends: Backends, tmp_path: Path) -> None:
    """With NOTIFY, and with nothing but polling (the listening connections cut)."""
    own = await own_database(backends)
    settings = {"AUTH__MODE": "keys", "AUTH__BOOTSTRAP_KEY": BOOTSTRAP}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = service_on(own, tmp_path / "one", **settings), service_on(own, tmp_path / "two", **settings)
    async with running(one) as first, running(two) as second:
        for cut in (False, True):
            body = {"name": "k", "scopes": ["ingest:read"]}
            made = (await first.post("/api/v1/api-keys", headers=ADMIN, json=body)).json()
            headers = bearer(made["key"])
            for _ in range(3):
                assert (await second.get("/api/v1/me", headers=headers)).status_code == 200
            if cut:
                connection = await asyncpg.connect(
                    host=own.db.HOST, port=own.db.PORT, user=own.db.USER, database=own.db.NAME,
                    password=own.db.PASSWORD.get_secret_value() or None,
                )  # fmt: skip
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%-listen'"
                    " AND datname = current_database()"
                )
                await connection.close()
            began = time.monotonic()
            assert (await first.delete(f"/api/v1/api-keys/{made['key_id']}", headers=ADMIN)).status_code == 204
            while (await second.get("/api/v1/me", headers=headers)).status_code != 401:
                assert time.monotonic() - began < 2
                await asyncio.sleep(0.02)
            print(f"refused by the other process after {time.monotonic() - began:.2f} s (polling only: {cut})")


async def test_rates_hold_under_50_clients(backends: Backends, tmp_path: Path) -> None:
    own = await own_database(backends)
    settings = {
        "AUTH__MODE": "keys", "AUTH__BOOTSTRAP_KEY": BOOTSTRAP, "LIMITS__READ": "100/minute",
        "LIMITS__FAILED_LOGINS": "10/minute",
    }  # fmt: skip
    async with running(service_on(own, tmp_path, **settings)) as client:
        body = {"name": "k", "scopes": ["ingest:read"]}
        made = (await client.post("/api/v1/api-keys", headers=ADMIN, json=body)).json()
        calls: list[tuple[float, httpx.Response]] = []

        async def one_client() -> None:
            for _ in range(3):
                began = time.monotonic()
                answer = await client.get("/api/v1/me", headers=ADMIN)
                calls.append((time.monotonic() - began, answer))

        began = time.monotonic()
        beside = asyncio.create_task(client.get("/api/v1/me", headers=bearer(made["key"])))
        await asyncio.gather(*(one_client() for _ in range(50)))
        took = time.monotonic() - began
        assert (await beside).status_code == 200  # another caller, in the middle of it
        answers = [answer for _, answer in calls]
        codes = [answer.status_code for answer in answers]
        seconds = {code: [each for each, answer in calls if answer.status_code == code] for code in (200, 429)}
        print(
            f"50 clients, 150 requests in {took:.2f} s: {codes.count(200)} answers 200 (median "
            f"{statistics.median(seconds[200]) * 1000:.0f} ms), {codes.count(429)} answers 429 (median "
            f"{statistics.median(seconds[429]) * 1000:.0f} ms, slowest {max(seconds[429]) * 1000:.0f} ms)"
        )
        assert (codes.count(200), codes.count(429)) == (100, 50)
        limited = next(answer for answer in answers if answer.status_code == 429)
        assert limited.json()["code"] == "rate_limited"
        assert 0 < int(limited.headers["Retry-After"]) <= 60
        assert limited.headers["RateLimit-Policy"] == '"read";q=100;w=60'
        assert limited.headers["RateLimit"].startswith('"read";r=0;t=')
        assert (await client.get("/api/v1/me", headers=bearer(made["key"]))).status_code == 200
        wrong = [(await client.get("/api/v1/me", headers=bearer("x"))).status_code for _ in range(12)]
        assert wrong == [401] * 10 + [429] * 2
        assert (await client.get("/api/v1/me", headers=bearer(made["key"]))).status_code == 200
