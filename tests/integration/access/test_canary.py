"""Every secret of a run is a unique text, and afterwards nothing holds one: logs, answers, rows, objects, arguments."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import boto3
import httpx
import psutil

from tests.conftest import SECRETS_KEY, Backends, running, unique
from tests.kits.service_support import jpeg, own_database, service_on, upload

SEALED = {"rtsp_url", "fingerprint"}  # columns that rest encrypted


def spellings(secret: str) -> set[str]:
    """Plain, percent-encoded, and in base64 at each of the three alignments."""
    found = {secret, quote(secret, safe="")}
    for shift in range(3):
        whole = base64.b64encode(b"x" * shift + secret.encode()).decode()
        found.add(whole[4 if shift else 0 : len(whole) // 4 * 4 - 4])
    return found | {item.replace("+", "-").replace("/", "_") for item in found}


async def dump(connection: Any) -> str:
    """Every row of every table, the encrypted columns aside."""
    parts = []
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for (table,) in tables:
        rows = [json.loads(row[0]) for row in await connection.fetch(f'SELECT to_jsonb(t) FROM "{table}" AS t')]
        parts += [json.dumps({name: value for name, value in row.items() if name not in SEALED}) for row in rows]
    return "\n".join(parts)


async def test_no_secret_of_a_run_is_left_anywhere(backends: Backends, tmp_path: Path) -> None:
    own = await own_database(backends)
    bootstrap, password = f"canary-bootstrap/{secrets.token_urlsafe(32)}", f"canary+camera@{secrets.token_urlsafe(18)}"
    settings = {"AUTH__MODE": "keys", "AUTH__BOOTSTRAP_KEY": bootstrap, "LOG__LEVEL": "DEBUG", "RTSP__CAPTURE_TIMEOUT": "1"}
    service = service_on(own, tmp_path, **settings)
    user, token = f"canary-user-{secrets.token_hex(8)}", f"canary-token-{secrets.token_hex(8)}"
    canaries = {bootstrap, password, user, token, SECRETS_KEY, own.storage.SECRET_KEY.get_secret_value()}
    told: list[str] = []
    url = f"rtsp://{user}:{quote(password, safe='')}@127.0.0.1:9/live;token={token}/user={user}_channel=1?t={token}"
    camera = unique()
    async with running(service) as client:

        async def call(method: str, path: str, credential: str = bootstrap, **more: Any) -> httpx.Response:
            headers = {"Authorization": f"Bearer {credential}", **more.pop("headers", {})}
            answer = await client.request(method, path, headers=headers, **more)
            told.append(answer.text + json.dumps(dict(answer.headers)))
            return answer

        made = await call("POST", "/api/v1/api-keys", json={"name": "canary", "scopes": ["ingest:write", "ingest:read"]})
        key = made.json()["key"]
        told.pop()  # shown this once
        rotated = (await call("POST", f"/api/v1/api-keys/{made.json()['key_id']}/rotate")).json()["key"]
        told.pop()
        session = await client.post("/api/v1/session", json={"credential": rotated})
        cookie = session.headers["set-cookie"].partition(";")[0].partition("=")[2]
        wrong = rotated[:-1] + ("A" if rotated[-1] != "A" else "B")
        canaries |= {key, rotated, cookie, wrong}
        await call("GET", "/api/v1/me", wrong)
        await call("POST", "/api/v1/session", json={"credential": wrong})
        await call("POST", "/api/v1/cameras", json={"camera_id": camera, "rtsp_url": url})
        await call("POST", "/api/v1/cameras/probe", json={"rtsp_url": url})
        await call("POST", f"/api/v1/cameras/{camera}/snapshot", headers={"Idempotency-Key": "one"})
        await call("POST", "/api/v1/ingest/rtsp", key, json={"camera_id": unique(), "rtsp_url": url})
        client.headers["Authorization"] = f"Bearer {key}"
        stored = await upload(client, camera, jpeg())
        told.append(stored.text)
        client.headers.pop("Authorization")
        await asyncio.sleep(6)  # `last_used_at`, refusals and the failed capture are written
        for path in ("events", "cameras", "ingest/requests", "audit", "api-keys"):
            await call("GET", f"/api/v1/{path}")
        await call("GET", "/metrics")
        await call("GET", "/health")
        assert service.process is not None
        processes = psutil.Process(service.process.pid).children(recursive=True)
        arguments = [" ".join(process.cmdline()) for process in [psutil.Process(service.process.pid), *processes]]
    connection = await asyncpg.connect(
        host=own.db.HOST, port=own.db.PORT, user=own.db.USER, database=own.db.NAME,
        password=own.db.PASSWORD.get_secret_value() or None,
    )  # fmt: skip
    rows = await dump(connection)
    await connection.close()
    s3 = boto3.client(
        "s3", endpoint_url=own.storage.ENDPOINT if "://" in own.storage.ENDPOINT else f"http://{own.storage.ENDPOINT}",
        aws_access_key_id=own.storage.ACCESS_KEY.get_secret_value(), region_name="us-east-1",
        aws_secret_access_key=own.storage.SECRET_KEY.get_secret_value(),
    )  # fmt: skip
    objects = []
    for item in s3.list_objects_v2(Bucket=own.storage.BUCKET_NAME).get("Contents", []):
        head = s3.head_object(Bucket=own.storage.BUCKET_NAME, Key=item["Key"])
        objects.append(item["Key"] + json.dumps(head, default=str))
    places = {
        "log": service.text(), "answers": "\n".join(told), "rows": rows, "objects": "\n".join(objects),
        "arguments": "\n".join(arguments),
    }  # fmt: skip
    assert camera in rows
    assert objects
    assert '"http_request"' in places["log"]
    for name, text in places.items():
        for canary in canaries:
            assert not [form for form in spellings(canary) if len(form) > 8 and form in text], f"a secret is in the {name}"
