"""schemathesis against the running service: every operation, every check, and the operations in sequences by their links."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from demo.camera import Camera
from tests.conftest import ROOT, Backends, running
from tests.kits.service_support import jpeg, own_database, service_on, upload

pytestmark = pytest.mark.paced
# By the schema alone, then in sequences by the links: (phases, seconds, what at least must have been tried).
RUNS = [
    ("examples,coverage,fuzzing", 30, r"Tested: (?:2[5-9]|[3-9]\d)"),  # operations
    ("stateful", 20, r"API Links: +[1-9]"),
]
LOCAL_NETWORKS = '["127.0.0.0/8"]'
BOOTSTRAP = "bootstrap-secret-of-the-schema-tests-0123"
AUTHORIZATION = f"Bearer {BOOTSTRAP}"


@pytest_asyncio.fixture(scope="module")
async def client(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """A service with access on, a picture and two registered cameras; only addresses of this machine are allowed."""
    own, folder = await own_database(backends), tmp_path_factory.mktemp("service")
    fast = {"RTSP__CAPTURE_TIMEOUT": "1", "RTSP__OPEN_TIMEOUT": "1", "RTSP__ALLOWED_NETWORKS": LOCAL_NETWORKS}
    access = {"AUTH__MODE": "keys", "AUTH__BOOTSTRAP_KEY": BOOTSTRAP, "LIMITS__FAILED_LOGINS": "100000/minute"}
    with Camera(size=(160, 120), fps=5) as camera:
        async with running(service_on(own, folder, **fast, **access)) as found:
            found.headers["Authorization"] = AUTHORIZATION
            for camera_id in ("pit-lane-1", "pit-lane-2"):
                body = {"camera_id": camera_id, "rtsp_url": camera.url, "keep_open": True}
                assert (await found.post("/api/v1/cameras", json=body)).status_code == 201
            assert (await upload(found, "pit-lane-1", jpeg())).status_code == 201
            found.headers["camera-url"] = camera.url
            yield found


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("phases", "seconds", "tried"), RUNS, ids=["schema", "links"])
async def test_schemathesis_finds_nothing(
    client: httpx.AsyncClient, tmp_path: Path, phases: str, seconds: int, tried: str
) -> None:
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.integration.service.schemathesis_hooks",
        "SCHEMATHESIS_LIVE_URL": client.headers["camera-url"], "SCHEMATHESIS_CREDENTIAL": BOOTSTRAP,
    }  # fmt: skip
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "--config-file", str(Path(__file__).with_name("schemathesis.toml")),
        "run", f"{client.base_url}/openapi.json", "--header", f"Authorization: {AUTHORIZATION}",
        # Revoked keys and aborted sessions stay readable, and say so; the check cannot be turned off for them alone.
        # That deleted frames and cameras are gone has tests of its own.
        "--checks", "all", "--exclude-checks", "use_after_free",
        "--exclude-operation-id", "drain_worker",  # the service would capture nothing from then on
        "--phases", phases, "--max-time", str(seconds),
        "--seed", "1", "--max-examples", "10", "--request-timeout", "30", "--no-shrink", "--continue-on-failure",
        "--no-color", "--generation-database", "none",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    text = out.decode()
    print(text)
    assert process.returncode == 0, text
    assert re.search(tried, text), text
