"""The user that compose makes in SeaweedFS: all that the service does, in its bucket alone."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml
from pydantic import SecretStr

from config import StorageSettings
from services.storage_service.service import Served, StorageService
from tests.conftest import ROOT
from tests.kits.service_support import until
from utils.embedded.ports import choose_ports
from utils.embedded.weed_config import binary
from utils.exceptions import StorageUnavailable
from utils.ids import new_id

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.seaweedfs.yml").read_text("utf-8"))
KEYS = {
    "STORAGE__BUCKET_NAME": "some-bucket", "STORAGE__ACCESS_KEY": "service-key", "STORAGE__SECRET_KEY": "service-secret-1",
    "S3_ROOT_PASSWORD": "root-secret-1",
}  # fmt: skip


def value(text: str) -> str:
    """As compose replaces variables."""
    return re.sub(r"\$\{(\w+):[-?]([^}]*)\}", lambda found: KEYS.get(found[1], found[2]), text)


@dataclass
class Store:
    endpoint: str
    environment: dict[str, str]

    async def make_user(self) -> subprocess.CompletedProcess[str]:
        script = ROOT / COMPOSE["configs"]["s3-user.sh"]["file"]
        return await asyncio.to_thread(
            subprocess.run, ["sh", script], env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def service(self, bucket: str = KEYS["STORAGE__BUCKET_NAME"]) -> StorageService:
        return StorageService(
            StorageSettings(
                ENDPOINT=self.endpoint, BUCKET_NAME=bucket, ACCESS_KEY=SecretStr(KEYS["STORAGE__ACCESS_KEY"]),
                SECRET_KEY=SecretStr(KEYS["STORAGE__SECRET_KEY"]),
            )
        )  # fmt: skip


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """SeaweedFS as the container starts it, on other ports and a folder of its own."""
    part = COMPOSE["services"]["s3"]
    chosen = choose_ports(tmp_path / "ports.json", None)  # with room for each one's gRPC port, 10,000 above
    ports = {name: chosen[name] for name in ("master", "volume", "filer", "admin", "s3")}
    own = [word for word in map(value, part["command"]) if not word.startswith(("-dir=", "-s3.port=", "-ip.bind="))]
    listen = [f"-{name}.port={port}" for name, port in ports.items()]
    environment = {
        "HOME": str(tmp_path), "PATH": f"{binary().parent}:{os.environ['PATH']}",
        **{name: value(text) for name, text in part["environment"].items()},
    }  # fmt: skip
    (tmp_path / "data").mkdir()
    process = subprocess.Popen(
        [binary(), *own, *listen, f"-dir={tmp_path / 'data'}", "-ip.bind=127.0.0.1"], cwd=tmp_path, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    url = f"http://127.0.0.1:{ports['s3']}"

    async def up() -> bool:
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{url}/healthz", timeout=2)).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        await until(up, "SeaweedFS answers", 60, 0.2)
        made = {"WEED_MASTER": f"localhost:{ports['master']}", "WEED_FILER": f"localhost:{ports['filer']}"}
        yield Store(url, environment | made | {name: text for name, text in KEYS.items() if name.startswith("STORAGE__")})
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)


async def test_compose_makes_a_user_with_one_bucket(store: Store) -> None:
    for _ in range(2):  # at each start
        done = await store.make_user()
        assert done.returncode == 0, done.stderr
        assert KEYS["STORAGE__SECRET_KEY"] not in done.stdout + done.stderr
    data = b"x" * 1000
    digest = hashlib.sha256(data).hexdigest()
    own = store.service()

    async def known() -> bool:
        """The S3 server hears of a new user a moment after the filer has it."""
        try:
            await own.ensure_bucket()
        except StorageUnavailable as error:
            if error.details["error_code"] not in ("AccessDenied", "InvalidAccessKeyId"):
                raise
            return False
        return True

    await until(known, "the store knows the user", 20, 0.1)
    await own.check()
    await own.put("frames/a", data, "image/jpeg", digest)
    assert (await own.digest("frames/a")).sha256 == digest
    assert [item.key for item in (await own.list_page("", ""))[0]] == ["frames/a"]
    (url,) = await own.presign([Served("frames/a", "image/jpeg", "inline")])
    async with httpx.AsyncClient() as client:
        assert (await client.get(url.url)).content == data
        assert (await client.get(f"{store.endpoint}/{KEYS['STORAGE__BUCKET_NAME']}/frames/a")).status_code == 403
    session = new_id()
    upload = await own.staging.begin(session)
    assert await own.staging.parts(session, upload) == []
    await own.staging.remove(session, multipart=True)
    assert await own.delete_many(["frames/a"]) == []
    await own.close()
    other = store.service("another")
    for call in (other.ensure_bucket(), other.put("a", data, "image/jpeg", digest), other.head("a")):
        with pytest.raises(StorageUnavailable):
            await call
    await other.close()
