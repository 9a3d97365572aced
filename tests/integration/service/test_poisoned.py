"""A capture that its process dies of, time after time: it is failed, and the others go on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.camera import Camera
from models.values import MAX_ATTEMPTS
from tests.conftest import Backends, Service, unique
from tests.kits.exiting_main import EXIT_CODE
from tests.kits.service_support import FINAL, capture, own_database, service_on, status, until
from tests.kits.takeover_kit import fetch, log_lines

TTL = 2  # RTSP__LEASE_TTL


class Exiting(Service):
    program = "tests/kits/exiting_main.py"


async def _ended(service: Service, bad: str, db: Any) -> bool:
    """Whether the capture is final; False when the process has ended first."""
    assert service.process is not None
    while service.process.poll() is None:
        rows = await fetch(db, "SELECT status FROM ingestion_requests WHERE id = $1", bad)
        if rows[0]["status"] in FINAL:
            return True
        await asyncio.sleep(0.05)
    assert service.process.returncode == EXIT_CODE
    return False


@pytest.mark.paced
@pytest.mark.timeout(900)  # five starts of a service
async def test_a_capture_that_ends_its_process_is_poisoned_after_three(backends: Backends, tmp_path: Path) -> None:
    own = await own_database(backends)
    bad_camera = unique("poison")
    settings = {"RTSP__LEASE_TTL": str(TTL), "EXIT_CAMERA": bad_camera, "RTSP__READER": "opencv"}
    made = service_on(own, tmp_path, **settings)
    service = Exiting(made.environment, made.log)
    with Camera(size=(320, 180), fps=15, bitrate=300_000) as camera:
        await asyncio.to_thread(service.start, 240)
        fields = {"capture_mode": "continuous", "fps": 5.0}
        async with httpx.AsyncClient(base_url=service.url, timeout=70) as client:
            good = [await capture(client, unique(), camera.url, **fields) for _ in range(2)]
            for each in good:
                await until(lambda each=each: _stored(client, each), "a frame of the other capture")  # type: ignore[misc]
            bad = await capture(client, bad_camera, camera.url, **fields)
        deaths = 0
        while not await _ended(service, bad, own.db):
            deaths += 1
            assert deaths <= MAX_ATTEMPTS
            try:
                await asyncio.to_thread(service.start, 240)
            except AssertionError:  # it ended before it was ready
                assert service.process is not None
                assert service.process.returncode == EXIT_CODE, service.text()[-3000:]
        assert deaths == MAX_ATTEMPTS
        await until(lambda: _listening(service), "the service listens", 40)
        async with httpx.AsyncClient(base_url=service.url, timeout=70) as client:
            ended = await status(client, bad)
            assert (ended["status"], ended["error"]["code"], ended["error"]["retryable"]) == ("failed", "poisoned", False)
            [line] = log_lines(service, "request_poisoned", ingestion_id=bad)
            assert (line["camera_id"], line["owners"]) == (bad_camera, MAX_ATTEMPTS)
            metrics = (await client.get("/metrics")).text
            assert "ingestion_requests_poisoned_total 1.0" in metrics
            events = (await client.get("/api/v1/events", params={"types": "request.failed"})).json()["items"]
            assert [event["data"]["error"]["code"] for event in events if event["subject"] == bad] == ["poisoned"]
            for each in good:
                before = await status(client, each)
                assert before["status"] == "in_progress"
                assert "decode_failed" not in before["progress"]["dropped"]
                stored = before["progress"]["stored"]
                await until(lambda each=each, stored=stored: _stored(client, each, stored), "more frames")  # type: ignore[misc]
                owners = len(log_lines(service, "capture_resumed", ingestion_id=each))
                assert owners >= MAX_ATTEMPTS  # it went on after each restart
        assert await asyncio.to_thread(service.stop) == 0


async def _listening(service: Service) -> bool:
    try:
        return (await asyncio.to_thread(httpx.get, f"{service.url}/health/ready", timeout=3)).status_code == 200
    except httpx.TransportError:
        return False


async def _stored(client: httpx.AsyncClient, request_id: str, more_than: int = 0) -> bool:
    return bool((await status(client, request_id))["progress"]["stored"] > more_than)
