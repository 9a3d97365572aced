"""deploy/s3-policy.json to the letter (`make test-real`): a bucket that is there, a user who may do that and no more."""

from __future__ import annotations

import asyncio
import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from config import StorageSettings
from services.storage_service.client import make_client
from services.storage_service.service import StorageService
from services.storage_service.staging import staging_key
from tests.conftest import Backends, migrated_database, running
from tests.kits.service_support import all_frames, assert_objects, jpeg, service_on, sha256, until, upload
from tests.s3_policy import make_user, policy_for
from utils.exceptions import StorageUnavailable
from utils.ids import new_id

pytestmark = pytest.mark.skipif("MINIO_TEST__ENDPOINT" not in os.environ, reason="needs a MinIO of its own: make test-real")
SESSIONS = "/api/v1/ingest/upload/sessions"
PART = 5_242_880


def root_client() -> Any:
    env = os.environ
    return make_client(
        f"http://{env['MINIO_TEST__ENDPOINT']}", "us-east-1", env["MINIO_TEST__ROOT_USER"],
        env["MINIO_TEST__ROOT_PASSWORD"], timeouts=(2, 5), attempts=1, connections=2,
    )  # fmt: skip


async def own_bucket(backends: Backends, *, policy: dict[str, Any] | None = None) -> Backends:
    """A bucket that root has made, and its user; a database."""
    bucket, secret = f"policy-{secrets.token_hex(5)}", secrets.token_hex(12)
    await asyncio.to_thread(root_client().create_bucket, Bucket=bucket)
    await asyncio.to_thread(make_user, f"user-{bucket}", secret, policy or policy_for(bucket))
    storage = backends.storage.model_copy(
        update={"BUCKET_NAME": bucket, "ACCESS_KEY": SecretStr(f"user-{bucket}"), "SECRET_KEY": SecretStr(secret)}
    )
    return replace(backends, db=await migrated_database(backends.db, bucket.replace("-", "_")), storage=storage)


async def direct(client: httpx.AsyncClient, data: bytes) -> dict[str, Any]:
    """A direct upload in parts, begun again in the middle as a client that was cut off does."""
    body = {"camera_id": "direct", "filename": "a.bmp", "size_bytes": len(data), "sha256": sha256(data)}
    session = (await client.post(SESSIONS, json=body)).raise_for_status().json()
    for part in session["parts"][:1]:
        assert (await asyncio.to_thread(httpx.put, part["url"], content=data[:PART])).status_code == 200
    session = (await client.get(f"{SESSIONS}/{session['session_id']}")).raise_for_status().json()
    assert [part["arrived"] for part in session["parts"]][:1] == [True]
    for part in session["parts"][1:]:
        piece = data[part["offset"] : part["offset"] + part["size"]]
        assert (await asyncio.to_thread(httpx.put, part["url"], content=piece)).status_code == 200
    answer = await client.post(f"{SESSIONS}/{session['session_id']}/complete")
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_the_service_needs_no_more_than_the_policy(backends: Backends, tmp_path: Path) -> None:
    own = await own_bucket(backends)
    service = service_on(own, tmp_path, UPLOAD__PART_SIZE=str(PART), SWEEPER__GRACE="1", SWEEPER__INTERVAL="1")
    root, bucket = root_client(), own.storage.BUCKET_NAME
    async with running(service) as client:
        answer = await upload(client, "form", jpeg(), jpeg())
        assert answer.status_code == 201, answer.text
        await assert_objects(client, await all_frames(client, answer.json()["request_id"]))
        made = await direct(client, jpeg((2048, 1024), "BMP"))
        await assert_objects(client, await all_frames(client, made["request_id"]))
        begun = await client.post(SESSIONS, json={"camera_id": "x", "filename": "b.bmp", "size_bytes": 3 * PART})
        session = begun.raise_for_status().json()
        assert (await client.delete(f"{SESSIONS}/{session['session_id']}")).status_code == 204

        async def aborted() -> bool:
            key = staging_key(session["session_id"])
            listed = await asyncio.to_thread(root.list_multipart_uploads, Bucket=bucket, Prefix=key)
            return not listed.get("Uploads")

        await until(aborted, "the parts of a session that was given up are removed")
        gone = answer.json()["frames"][0]
        assert (await client.delete(f"/api/v1/frames/{gone['frame_id']}")).status_code == 204

        async def deleted() -> bool:
            listed = await asyncio.to_thread(root.list_objects_v2, Bucket=bucket, Prefix=gone["storage_path"])
            return not listed.get("Contents")

        await until(deleted, "the object of a deleted frame is removed")

        async def swept() -> bool:
            answer = (await client.get("/metrics")).text
            return "ingestion_sweeper_last_pass_timestamp_seconds 0.0" not in answer

        await until(swept, "the sweeper's pass", 30)
        assert (await client.get("/health")).json()["status"] == "healthy"
    assert "AccessDenied" not in service.text()


async def test_the_policy_gives_no_other_bucket(backends: Backends) -> None:
    own, other = await own_bucket(backends), await own_bucket(backends)
    for bucket in (other.storage.BUCKET_NAME, f"new-{secrets.token_hex(4)}"):
        storage = StorageService(own.storage.model_copy(update={"BUCKET_NAME": bucket}))
        try:
            put = storage.put("frames/x", b"x", "image/jpeg", sha256(b"x"))
            for call in (storage.ensure_bucket(), put, storage.head("x")):
                with pytest.raises(StorageUnavailable):
                    await call
        finally:
            await storage.close()


@pytest.mark.parametrize("action", ["s3:ListMultipartUploadParts", "s3:ListBucketMultipartUploads"])
async def test_what_the_policy_had_forgotten_is_needed(action: str, backends: Backends) -> None:
    """Without either of them a direct upload in parts cannot be gone on with, or not be removed."""
    own = await own_bucket(backends)
    bucket = own.storage.BUCKET_NAME
    less = policy_for(bucket)
    for part in less["Statement"]:
        part["Action"] = [item for item in part["Action"] if item != action]
    user = {"ACCESS_KEY": SecretStr(f"less-{bucket}"), "SECRET_KEY": own.storage.SECRET_KEY}
    await asyncio.to_thread(make_user, f"less-{bucket}", own.storage.SECRET_KEY.get_secret_value(), less)
    limited = own.storage.model_copy(update=user)
    await begin_and_use(own.storage, action)
    with pytest.raises(StorageUnavailable):
        await begin_and_use(limited, action)


async def begin_and_use(settings: StorageSettings, action: str) -> None:
    storage, session_id = StorageService(settings), new_id()
    try:
        upload_id = await storage.staging.begin(session_id)
        if action == "s3:ListMultipartUploadParts":
            assert await storage.staging.parts(session_id, upload_id) == []
        else:
            await storage.staging.remove(session_id, multipart=True)
    finally:
        await storage.close()
