"""The lines of docs/uploads.md, run as they stand there."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, Backends, running
from tests.kits.service_support import own_database, service_on, sha256


async def test_the_documented_lines_upload_a_file(backends: Backends, tmp_path: Path) -> None:
    missing = [tool for tool in ("bash", "curl", "jq") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    [script] = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "uploads.md").read_text(), re.DOTALL)
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(7).integers(0, 256, (1700, 2000, 3), np.uint8)).save(buffer, "BMP")
    large, small = buffer.getvalue(), buffer.getvalue()
    with io.BytesIO() as jpeg:
        Image.new("RGB", (64, 48), "red").save(jpeg, "JPEG")
        small = jpeg.getvalue()
    async with running(service_on(await own_database(backends), tmp_path, UPLOAD__DISK_RESERVE="0")) as client:
        for name, data in (("car-44.bmp", large), ("car-44.jpg", small)):  # parts; one PUT
            (tmp_path / name).write_bytes(data)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, check=False, timeout=60,
                env={"PATH": "/usr/bin:/bin:/usr/local/bin", "API": f"{client.base_url}/api/v1".replace("//api", "/api"),
                     "FILE": name},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr.decode()
            answer = json.loads(done.stdout.decode())
            assert [frame["sha256"] for frame in answer["frames"]] == [sha256(data)]
            assert answer["meta"] == {"session": "FP1"}
