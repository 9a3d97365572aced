"""Every secret of a run is a unique text, and afterwards nothing holds one.

Logs at DEBUG with every exception's text, answers, events, metrics, rows, metadata of objects, process arguments.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from base64 import b64encode, urlsafe_b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from pydantic import SecretStr

from demo.camera import Camera
from demo.faults import FaultProxy
from tests.conftest import Backends, running, unique
from tests.kits.canary import Canaries, arguments, canary, dump, holds, objects, process_of
from tests.kits.faulty import behind, database_proxy, store_proxy
from tests.kits.redis_server import RedisServer
from tests.kits.service_support import jpeg, own_database, service_on, until, upload
from utils.secret_box import new_key

SETTINGS = {"LOG__LEVEL": "DEBUG", "DEBUG": "true", "RTSP__CAPTURE_TIMEOUT": "1", "AUTH__JWT_ISSUER": "https://issuer.example",
            "AUTH__JWT_AUDIENCE": "trackshift", "AUTH__JWT_ALGORITHMS": '["HS256"]', "AUTH__MODE": "both"}  # fmt: skip
PAGES = ("events", "cameras", "ingest/requests", "audit", "api-keys", "frames", "me")


async def place_of(backends: Backends) -> tuple[Backends, Canaries, dict[str, str]]:
    """A database of its own, and secrets that nothing else uses. The database's own server lets anybody in: the password
    is given all the same."""
    own = await own_database(backends)
    seal = new_key()
    found = Canaries(seal=seal, store=own.storage.SECRET_KEY.get_secret_value())
    found.new("redis")
    if not own.db.PASSWORD.get_secret_value():
        own = replace(own, db=own.db.model_copy(update={"PASSWORD": SecretStr(found.new("database"))}))
    settings = {
        **SETTINGS, "AUTH__BOOTSTRAP_KEY": found.new("bootstrap"), "AUTH__JWT_SECRET": found.new("jwt"),
        "SECRETS__KEYS": json.dumps([seal]),
    }  # fmt: skip
    return own, found, settings


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


def token(secret: str, **changes: Any) -> str:
    claims = {
        "iss": "https://issuer.example", "aud": "trackshift", "sub": "alice", "exp": int(time.time()) + 300,
        "scope": "frames:read cameras:read", **changes,
    }  # fmt: skip
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(secret), algorithms=["HS256"])


async def read_all(client: httpx.AsyncClient, found: Canaries) -> None:
    admin = bearer(found.secrets["bootstrap"])
    paths = [*(f"/api/v1/{page}" for page in PAGES), "/metrics", "/health", "/openapi.json"]
    for answer in await asyncio.gather(*(client.get(path, headers=admin) for path in paths)):
        found.heard(answer)


def credentials_of(found: Canaries, key: str, kind: str) -> None:
    found.secrets[kind] = key
    found.secrets[f"{kind}'s secret"] = key.rpartition("_")[2]


async def make_key(client: httpx.AsyncClient, found: Canaries, kind: str, *scopes: str) -> tuple[str, str]:
    """(id, key); the answer shows it this once."""
    admin = bearer(found.secrets["bootstrap"])
    made = await client.post("/api/v1/api-keys", headers=admin, json={"name": "canary", "scopes": list(scopes)})
    credentials_of(found, made.json()["key"], kind)
    return made.json()["key_id"], made.json()["key"]


@pytest.mark.parametrize("text", ["canary+x/123456789@&=", "tsk_abcdefghijkl_0123456789"])
def test_every_spelling_is_found(text: str) -> None:
    for shift in range(6):
        for encode in (b64encode, urlsafe_b64encode):
            assert holds("..." + encode(b"u" * shift + text.encode() + b":tail").decode(), text), (shift, encode)
    for safe in ("", "/", "@"):
        once = quote(text, safe=safe)
        assert holds(f"rtsp://a:{once}@host", text)
        assert holds(f"rtsp://a:{once.lower() if text.islower() else once}@host", text)
        assert holds(f"?url={quote(once)}", text)
    assert not holds("tsk_ canary+ another text", text)


async def test_no_secret_of_a_run_is_left_anywhere(backends: Backends, tmp_path: Path) -> None:
    own, found, settings = await place_of(backends)
    bootstrap, password = found.secrets["bootstrap"], found.new("camera")
    redis = RedisServer(tmp_path, found.secrets["redis"])
    redis.start()
    service = service_on(own, tmp_path, **settings, **redis.environment, LIMITS__READ="100000/minute", REDIS__TIMEOUT="20")
    user = found.secrets["user"] = f"canary-user-{secrets.token_hex(8)}"
    mark = found.secrets["token in a URL"] = f"canary-token-{secrets.token_hex(8)}"
    url = f"rtsp://{user}:{quote(password, safe='')}@127.0.0.1:9/live;token={mark}/user={user}_channel=1?t={mark}"
    camera = unique()
    async with running(service) as client:

        async def call(method: str, path: str, credential: str = bootstrap, **more: Any) -> httpx.Response:
            headers = {**bearer(credential), **more.pop("headers", {})}
            return found.heard(await client.request(method, path, headers=headers, **more))

        key_id, key = await make_key(client, found, "key", "ingest:write", "ingest:read", "frames:read")
        again = await client.post(f"/api/v1/api-keys/{key_id}/rotate", headers=bearer(bootstrap))
        rotated = again.json()["key"]
        credentials_of(found, rotated, "rotated key")
        signed = token(found.secrets["jwt"])
        found.secrets["token"], found.secrets["token's signature"] = signed, signed.rpartition(".")[2]
        session = await client.post("/api/v1/session", json={"credential": rotated})
        found.secrets["cookie"] = session.headers["set-cookie"].partition(";")[0].partition("=")[2]
        found.secrets["csrf"] = (await client.get("/api/v1/me")).json()["csrf_token"]
        refused = await client.delete("/api/v1/session", headers={"X-CSRF-Token": found.secrets["csrf"][:-1] + "x"})
        assert refused.status_code == 403
        client.cookies.clear()
        wrong = found.secrets["wrong key"] = rotated[:-1] + ("A" if rotated[-1] != "A" else "B")
        for credential in (wrong, signed, token(canary("forger") * 2), f"{signed}x"):
            await call("GET", "/api/v1/me", credential)
            await call("GET", "/api/v1/cameras", headers={"Authorization": f"Basic {credential}"})
        await call("POST", "/api/v1/session", json={"credential": wrong})
        await call("POST", "/api/v1/cameras", json={"camera_id": camera, "rtsp_url": url})
        await call("POST", "/api/v1/cameras", json={"camera_id": camera, "rtsp_url": url, "unknown": password})
        await call("PATCH", f"/api/v1/cameras/{camera}", json={"rtsp_url": url.replace("live", "other")})
        await call("POST", "/api/v1/cameras/probe", json={"rtsp_url": url})
        await call("POST", f"/api/v1/cameras/{camera}/snapshot", headers={"Idempotency-Key": "one"})
        for body in ({"rtsp_url": url}, {"rtsp_url": url, "fps": password}, {"rtsp_url": f"http:{url}"}, {password: url}):
            await call("POST", "/api/v1/ingest/rtsp", key, json={"camera_id": unique(), **body})
        client.headers.update(bearer(key))
        client.headers["Idempotency-Key"] = "kept"
        found.heard(await upload(client, camera, jpeg()))
        client.headers.pop("Authorization")
        client.headers.pop("Idempotency-Key")
        held = redis.dump()
        with redis.client() as administrator:  # and what is said of a password that is wrong now
            administrator.config_set("requirepass", found.new("redis's new password"))
            administrator.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(6)  # `last_used_at`, refusals and the failed capture are written
        await read_all(client, found)
        lines = arguments(process_of(service))
    redis.kill()
    places = {"the log": service.text(), "rows": await dump(own.db), "objects": objects(own), "arguments": lines}
    places["Redis"] = held
    assert "trackshift:limits" in held
    assert '"redis_unavailable"' in places["the log"]
    assert camera in places["rows"]
    assert places["objects"]
    assert '"http_request"' in places["the log"]
    assert found.found(places) == []


@pytest.mark.paced
async def test_no_secret_is_left_by_faults(backends: Backends, tmp_path: Path) -> None:
    """The database and the store cut under load, a camera that dies, wrong passwords, a kill and a start without a
    database: what is said of failures says no secret either."""
    own, found, settings = await place_of(backends)
    admin, password = bearer(found.secrets["bootstrap"]), found.new("camera")
    settings |= {
        "RTSP__LEASE_TTL": "2", "DB__STATEMENT_TIMEOUT": "1", "DB__POOL_TIMEOUT": "1", "DB__CONNECT_TIMEOUT": "1",
        "RTSP__RECONNECT_MAX_DELAY": "1", "SPOOL__AFTER": "0.3", "SPOOL__RETRY_MAX_DELAY": "1",
    }  # fmt: skip
    began = time.monotonic()
    with (
        store_proxy(own.storage) as store, database_proxy(own.db) as database,
        Camera(size=(320, 180), fps=15, bitrate=300_000) as source, FaultProxy(source.port) as camera,
    ):  # fmt: skip
        user = found.secrets["user"] = f"canary-user-{secrets.token_hex(8)}"
        camera.require_auth(user, password)
        good = camera.url(source.names[0], f"{user}:{quote(password, safe='')}")
        wrong = camera.url(source.names[0], f"{user}:{quote(found.new('wrong password'), safe='')}")
        service = service_on(behind(own, store, database), tmp_path, **settings)
        lines, phases = "", []

        async def everything(client: httpx.AsyncClient, key: str) -> None:
            """What clients do at the same time, whatever becomes of it."""
            files = [("files", ("a.jpg", jpeg(), "image/jpeg"))]
            keyed = {**admin, "Idempotency-Key": unique()}
            session = {"camera_id": "canary", "filename": "a.jpg", "size_bytes": 1000}
            calls = [
                client.post("/api/v1/ingest/upload", data={"camera_id": "canary"}, files=files, headers=keyed),
                client.post("/api/v1/ingest/upload/sessions", headers=admin, json=session),
                client.post("/api/v1/session", json={"credential": key}),
            ]
            for url in (good, wrong):
                body = {"camera_id": unique(), "rtsp_url": url}
                calls.append(client.post("/api/v1/ingest/rtsp", headers=bearer(key), json=body))
                calls.append(client.post("/api/v1/cameras", headers=admin, json=body))
            for answer in await asyncio.gather(*calls):
                found.heard(answer)
            client.cookies.clear()
            await read_all(client, found)

        async with running(service) as client:
            _, key = await make_key(client, found, "key", "ingest:write", "ingest:read")
            body = {"camera_id": "kept", "rtsp_url": good, "keep_open": True}
            found.heard(await client.post("/api/v1/cameras", headers=admin, json=body))
            body = {"camera_id": "kept", "capture_mode": "continuous", "fps": 5}
            taken = found.heard(await client.post("/api/v1/ingest/rtsp", headers=admin, json=body))
            path = f"/api/v1/ingest/status/{taken.json()['request_id']}"

            async def stored() -> bool:
                progress = (await client.get(path, headers=admin)).json()["progress"]
                return bool(progress["stored"])

            await until(stored, "a frame")
            await everything(client, key)
            for proxy in (database, store):
                proxy.fail("killed")
                await everything(client, key)
                proxy.heal()
                phases.append(time.monotonic() - began)
            store.fail("503")
            await everything(client, key)
            store.heal()
            camera.drop_connections(reset=True)
            camera.refuse()
            for path in ("/api/v1/cameras/kept/snapshot", "/api/v1/cameras/kept/probe"):
                found.heard(await client.post(path, headers=admin))
            camera.listen()
            lines += arguments(process_of(service))
            phases.append(time.monotonic() - began)
            service.kill()
        database.fail("killed")
        asyncio.get_running_loop().call_later(1.5, database.heal)
        async with running(service) as client:  # starts while there is no database, and takes its captures up
            await everything(client, key)
            assert (await client.post("/api/v1/cameras/kept/snapshot", headers=admin)).status_code in (201, 502, 504)
            lines += arguments(process_of(service))
    log = service.text()
    places = {"the log": log, "rows": await dump(own.db), "objects": objects(own), "arguments": lines}
    for happened in ("unauthorized_camera", "database_unavailable", "storage_unavailable", "connection_refused"):
        assert happened in log + "\n".join(found.told), happened
    assert found.found(places) == []
    print(f"{len(found.secrets)} secrets, {len(log)} characters of log, {time.monotonic() - began:.0f} s; {phases}")
