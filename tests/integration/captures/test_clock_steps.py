"""A service whose wall clock is set two hours ahead and back in mid-capture (tests/kits/stepped_clock.py)."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from demo.camera import Camera
from tests.conftest import Backends, Service, unique
from tests.kits.service_support import all_frames, assert_objects, capture, own_database, status, until
from tests.kits.stepped_clock import step
from tests.kits.takeover_kit import Looker, Pair, assert_whole, log_lines

FPS = 5.0
DURATION = 10.0


@pytest.fixture(scope="module")
def camera() -> Iterator[Camera]:
    with Camera(size=(320, 180), fps=15, bitrate=300_000) as camera:
        yield camera


@pytest.mark.paced
async def test_a_wall_clock_that_is_set_costs_no_lease_and_no_slot(
    backends: Backends, tmp_path: Path, camera: Camera
) -> None:
    own, clock = await own_database(backends), tmp_path / "clock"
    step(clock, 0)
    fake = {"STEPPED_CLOCK": str(clock)}
    folders = [tmp_path / "stepped", tmp_path / "steady"]
    stepped, steady = (
        Service(own.environment(folder, **more), folder.with_suffix(".log"))
        for folder, more in zip(folders, (fake, {}), strict=True)
    )
    stepped.program = "tests/kits/stepped_clock.py"
    pair = Pair([stepped, steady], own.db)
    try:
        await asyncio.to_thread(stepped.start)
        await asyncio.to_thread(steady.start)  # somebody who would take over
        assert steady.process is not None
        async with httpx.AsyncClient(base_url=stepped.url, timeout=20) as client:
            steady.process.send_signal(signal.SIGSTOP)  # so that the other claims
            request_id = await capture(
                client, unique(), camera.url, capture_mode="continuous", capture_duration=DURATION, fps=FPS, sampling="exact"
            )
            assert await pair.owner(request_id) is stepped
            steady.process.send_signal(signal.SIGCONT)
            async with Looker([stepped, steady], request_id) as looker:
                await looker.until_stored(15)
                for ahead in (7200, -7200, 0):  # the object store refuses to be written to until the clock is right
                    step(clock, ahead)
                    ended = time.monotonic() + 1.5
                    while time.monotonic() < ended:
                        assert await pair.epoch(request_id) == 1
                        await asyncio.sleep(0.1)
                found = await looker.final()
            taken = await all_frames(client, request_id)
            await assert_objects(client, taken)
    finally:
        for service in pair.services:
            if service.process is not None and service.process.poll() is None:
                service.process.send_signal(signal.SIGCONT)
                await asyncio.to_thread(service.stop)
    assert found["status"] == "completed"
    assert (found["progress"]["dropped"], found["progress"]["gaps"]) == ({}, [])
    assert assert_whole(found, taken, round(DURATION * FPS), FPS) == []
    assert not log_lines(stepped, "lease_fenced")
    assert not log_lines(steady, "capture_resumed")


async def test_a_trigger_means_the_clock_as_it_is_set_now(backends: Backends, tmp_path: Path, camera: Camera) -> None:
    """An endless capture goes on by the clock that it began with; what a client says is by today's."""
    own, clock = await own_database(backends), tmp_path / "clock"
    step(clock, 0)
    service = Service(own.environment(tmp_path / "data", STEPPED_CLOCK=str(clock)), tmp_path / "log")
    service.program = "tests/kits/stepped_clock.py"
    await asyncio.to_thread(service.start)
    try:
        async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
            request_id = await capture(
                client, unique(), camera.url, capture_mode="event_driven", motion={"enabled": False}, fps=FPS, pre_roll=2,
                post_roll=1,
            )  # fmt: skip

            async def begun() -> bool:
                return bool((await status(client, request_id))["grid_start"])

            await until(begun, "the first picture")
            await asyncio.sleep(2.5)  # the ring holds a pre-roll
            stored = 0
            for ahead in (60, 0):  # set forwards, and back again
                step(clock, ahead)
                await asyncio.sleep(2.5)
                (await client.post(f"/api/v1/ingest/requests/{request_id}/trigger", json={})).raise_for_status()
                deadline = time.monotonic() + 6
                while True:
                    progress = (await client.get(f"/api/v1/ingest/status/{request_id}")).json()["progress"]
                    if progress["stored"] >= stored + 3 * FPS - 1:
                        break
                    assert time.monotonic() < deadline, (ahead, progress)
                    await asyncio.sleep(0.2)
                assert progress["dropped"] == {}
                stored = progress["stored"]
                await asyncio.sleep(1)
            await client.post(f"/api/v1/ingest/requests/{request_id}/cancel")
    finally:
        await asyncio.to_thread(service.stop)
