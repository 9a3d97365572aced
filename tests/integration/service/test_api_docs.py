"""The lines of docs/api.md, run as they stand there, against a service and a camera."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from demo.camera import Camera
from demo.film import make_still
from tests.conftest import ROOT, Backends, Service, migrated_database, running
from tests.unit.docs.test_api_page import operations

PAGE = (ROOT / "docs" / "api.md").read_text("utf-8")
KEY = "bootstrap-secret-of-the-documented-lines"
# Every call must succeed, and reports itself. To the service it carries the key, unless it has a session's cookie.
REPORT = "%{stderr}called %{method} %{http_code} %{url}\\n"
CURL = f"""curl() {{
  local key=()
  if [[ "$*" == *"$SERVICE"* && "$*" != *"-b "* ]]; then key=(-H "Authorization: Bearer $KEY"); fi
  command curl --fail-with-body --max-time 60 -w '{REPORT}' "${{key[@]}}" "$@"
}}
"""


async def own(backends: Backends) -> Backends:
    """An empty database and a bucket beside those of the session."""
    name = f"api_docs_{secrets.token_hex(4)}"
    storage = backends.storage.model_copy(update={"BUCKET_NAME": name.replace("_", "-")})
    return replace(backends, db=await migrated_database(backends.db, name), storage=storage)


def calls(log: str) -> list[tuple[str, int, str]]:
    """Method, status and path of each call."""
    found = re.findall(r"^called (\w+) (\d+) https?://[^/]+(/[^?\s]*)", log, re.MULTILINE)
    return [(method, int(status), path) for method, status, path in found]


@pytest.mark.timeout(300)
async def test_the_documented_lines_work(backends: Backends, tmp_path: Path) -> None:
    if missing := [tool for tool in ("bash", "curl", "jq") if shutil.which(tool) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    script = CURL + "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    (tmp_path / "car.jpg").write_bytes(make_still(7, 640, 480, datetime.now(UTC)))
    environment = (await own(backends)).environment(
        tmp_path / "data", UPLOAD__DISK_RESERVE="0", RTSP__LINGER="0", AUTH__MODE="keys", AUTH__BOOTSTRAP_KEY=KEY
    )
    service = Service(environment, tmp_path / "service.log")
    with Camera(name="demo", size=(640, 360)) as camera:
        async with running(service):
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, check=False, timeout=240,
                env={"PATH": "/usr/bin:/bin:/usr/local/bin", "SERVICE": service.url, "CAMERA": camera.url,
                     "PICTURE": "car.jpg", "KEY": KEY},
            )  # fmt: skip
    log = done.stderr.decode()
    assert done.returncode == 0, f"{log[-2000:]}\n{done.stdout.decode()[-1000:]}"
    called = calls(log)
    assert [call for call in called if not 200 <= call[1] < 300 and call[1] != 307] == []
    for method, path in operations():
        route = re.sub(r"\{[^}]*\}", "[^/]+", path)
        assert any(verb == method and re.fullmatch(route, at) for verb, _, at in called), (method, path)
    assert (tmp_path / "frame.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert len((tmp_path / "first-bytes").read_bytes()) == 100
