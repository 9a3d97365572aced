"""API__PROCESSES: several processes behind one port, replaced when they die; their metrics are one set."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import ROOT, Backends, clean_environment
from tests.kits.service_support import jpeg, own_database, service_on, until, upload
from utils.secret_box import new_key

UPLOADS = re.compile(r'^ingestion_frames_total\{outcome="stored",source="upload"\} (\S+)$', re.MULTILINE)


async def counted(url: str) -> float:
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        found = UPLOADS.search((await client.get("/metrics")).text)
    return float(found[1]) if found else 0.0


async def upload_once(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:  # a connection of its own: the kernel chooses
        answer = await upload(client, "cam", jpeg())
        assert answer.status_code == 201, answer.text


@pytest.mark.timeout(300)
async def test_two_processes_behind_one_port(backends: Backends, tmp_path: Path) -> None:
    own = await own_database(backends)
    service = service_on(own, tmp_path, ROLE="api", API__PROCESSES="2", UPLOAD__DISK_RESERVE="0")
    await asyncio.to_thread(service.start)
    assert service.process is not None
    try:

        async def both() -> list[dict[str, Any]]:
            async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
                found: list[dict[str, Any]] = (await client.get("/api/v1/workers")).json()["items"]
            return found if Counter(each["role"] for each in found)["api"] == 2 else []

        await until(both, "both processes are there", 60)
        for _ in range(12):
            await upload_once(service.url)
        assert await counted(service.url) == 12  # of both, whichever is asked
        children = psutil.Process(service.process.pid).children()
        serving = [each for each in children if "main.py" in " ".join(each.cmdline())]
        assert len(serving) == 2
        os.kill(serving[0].pid, signal.SIGKILL)
        await asyncio.to_thread(psutil.wait_procs, serving[:1], 20)  # its connections are gone then
        assert await counted(service.url) == 12  # what the dead one counted stays
        for _ in range(4):
            await upload_once(service.url)

        async def replaced() -> bool:
            now = {each.pid for each in psutil.Process(service.process.pid).children() if each.is_running()}  # type: ignore[union-attr]
            return len(now & {serving[1].pid}) == 1 and service.text().count('"listening"') >= 3

        await until(replaced, "the dead process is replaced", 60)
        assert await counted(service.url) == 16
    finally:
        code = await asyncio.to_thread(service.stop, 60)
    assert code == 0
    assert not [each for each in serving if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"API__PROCESSES": "2"}, "API__PROCESSES is 2 and ROLE is all: set ROLE=api"),
        ({"WORKERS__PROCESSES": "2", "ROLE": "worker"}, "DB__HOST is empty: several processes share one"),
    ],
)
async def test_what_does_not_go_together_is_said(tmp_path: Path, environment: dict[str, str], said: str) -> None:
    given = {**clean_environment(), "DATA_DIR": str(tmp_path), "SECRETS__KEYS": f'["{new_key()}"]', **environment}
    process = await asyncio.create_subprocess_exec(
        str(ROOT / ".venv/bin/python"), "main.py", cwd=ROOT, env=given, stderr=asyncio.subprocess.PIPE
    )
    _, text = await process.communicate()
    assert (process.returncode, said in text.decode()) == (2, True), text.decode()
