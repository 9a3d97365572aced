"""What the black-box tests share: a service on a database of its own, pictures, polling, the ledger's identity."""

from __future__ import annotations

import asyncio
import hashlib
import io
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from tests.conftest import Backends, Service, clean_environment, make_database, migrated_database

FINAL = ("completed", "failed", "cancelled")


async def own_database(backends: Backends, *, tables: bool = True) -> Backends:
    """The same servers, a database without rows and a bucket of its own: no other test's captures are claimed.

    (A bucket that is another database's makes the service degraded.) Without `tables`, the service migrates it.
    """
    name = secrets.token_hex(5)
    storage = backends.storage.model_copy(update={"BUCKET_NAME": f"service-{name}"})
    make = migrated_database if tables else make_database
    return replace(backends, db=await make(backends.db, f"service_{name}"), storage=storage)


def service_on(backends: Backends, folder: Path, **environment: str) -> Service:
    return Service(backends.environment(folder / "data", **environment), folder / "service.log")


def embedded_service(folder: Path, **environment: str) -> Service:
    """A service that brings PostgreSQL and the S3 server itself."""
    settings = {"ENVIRONMENT": "test", "DATA_DIR": str(folder / "data"), "API__PORT": "0", **environment}
    return Service({**clean_environment(), **settings}, folder / "service.log")


def jpeg(size: tuple[int, int] = (320, 240), kind: str = "JPEG") -> bytes:
    """A picture that no other call makes."""
    noise = np.frombuffer(secrets.token_bytes(size[0] * size[1] // 16), np.uint8)
    pixels = np.resize(noise, (size[1], size[0], 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def until(check: Callable[[], Awaitable[Any]], what: str, seconds: float = 20, every: float = 0.05) -> Any:
    """The first true answer of `check`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = await check()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(every)


async def upload(client: httpx.AsyncClient, camera_id: str, *files: bytes, **form: str) -> httpx.Response:
    parts = [("files", (f"car-{n}.jpg", data, "image/jpeg")) for n, data in enumerate(files)]
    return await client.post("/api/v1/ingest/upload", data={"camera_id": camera_id, **form}, files=parts)


async def capture(client: httpx.AsyncClient, camera_id: str, url: str, **body: Any) -> str:
    answer = await client.post("/api/v1/ingest/rtsp", json={"camera_id": camera_id, "rtsp_url": url, **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["request_id"])


async def status(client: httpx.AsyncClient, request_id: str) -> dict[str, Any]:
    """The request; asserts the ledger's identity, which holds at every moment."""
    answer = await client.get(f"/api/v1/ingest/status/{request_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert_ledger(found)
    return found


def assert_ledger(found: dict[str, Any]) -> None:
    progress = found["progress"]
    dropped = sum(progress["dropped"].values())
    assert progress["expected"] == progress["stored"] + progress["in_flight"] + dropped, progress
    assert progress["in_flight"] >= 0
    assert found["status"] not in FINAL or progress["in_flight"] == 0


async def final(client: httpx.AsyncClient, request_id: str, seconds: float = 40) -> dict[str, Any]:
    async def check() -> dict[str, Any] | None:
        found = await status(client, request_id)
        return found if found["status"] in FINAL else None

    answer: dict[str, Any] = await until(check, "a final state", seconds, 0.1)
    return answer


async def all_frames(client: httpx.AsyncClient, request_id: str) -> list[dict[str, Any]]:
    """Every stored frame of a request, page by page."""
    found: list[dict[str, Any]] = []
    query = {"request_id": request_id, "limit": "200"}
    while True:
        page = (await client.get("/api/v1/frames", params=query)).raise_for_status().json()
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


async def assert_objects(client: httpx.AsyncClient, frames: list[dict[str, Any]]) -> None:
    """Invariant 1: each row's object is there with the row's bytes, both ways."""
    for item in frames:
        through = await client.get(f"/api/v1/frames/{item['frame_id']}/content", params={"proxy": "true"})
        assert through.status_code == 200, through.text
        assert sha256(through.content) == item["sha256"]
        assert len(through.content) == item["size_bytes"]
    if frames:
        direct = await asyncio.to_thread(httpx.get, frames[-1]["storage_url"])
        assert sha256(direct.content) == frames[-1]["sha256"]


def family(service: Service) -> list[psutil.Process]:
    """The service's children, and whatever works in its DATA_DIR."""
    found: dict[int, psutil.Process] = {}
    assert service.process is not None
    try:
        found |= {child.pid: child for child in psutil.Process(service.process.pid).children(recursive=True)}
    except psutil.NoSuchProcess:
        pass
    data_dir = service.environment["DATA_DIR"]
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(data_dir) or any(data_dir in word for word in process.cmdline()):
                found[process.pid] = process
        except (psutil.Error, OSError):
            continue
    return [process for process in found.values() if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def part_of(service: Service, folder: str) -> psutil.Process:
    """The main process of an embedded part: `postgres` or `object-store`."""
    wanted = str(Path(service.environment["DATA_DIR"]) / folder)
    for process in family(service):
        try:
            if process.cwd() == wanted and (process.parent() is None or process.parent().cwd() != wanted):
                return process
        except (psutil.Error, OSError):
            continue
    raise AssertionError(f"no process of {folder}")
