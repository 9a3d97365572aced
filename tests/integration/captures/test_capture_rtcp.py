"""The camera's own clock from its sender reports, end to end: stamps, offsets, wraps, restarts, probe and status."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio

from demo.camera import Camera
from demo.faults import FaultProxy
from models.access import ALL_CAMERAS, ANONYMOUS
from models.schemas import CameraCreate, ProbeRequest
from services.storage_service.service import StorageService
from tests.conftest import Backends, unique
from tests.kits.capture_kit import Kit, Stored, open_kit, until
from utils.metrics import CAMERA_CLOCKS_OFF

FIELDS = {"capture_mode": "continuous", "sampling": "exact"}


@pytest.fixture(scope="module")
def films(films: dict[str, Path]) -> dict[str, Path]:
    return {name: films[name] for name in ("h264", "h264b", "hevcb")}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kit(backends: Backends, storage: StorageService, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kit]:
    async with open_kit(backends, storage, tmp_path_factory.mktemp("data"), READER="native") as made:
        yield made


@pytest.fixture(scope="module")
def wrapping(films: dict[str, Path]) -> Iterator[Camera]:
    """Its RTP clock wraps 3 s after its start; a report a second: the second one comes after the receipt clock settled."""
    with Camera(films, join="burst", report_every=1.0, rtp_start=2**32 - 3 * 90_000) as camera:
        yield camera


def check(frames: list[Stored]) -> None:
    """Times rise, every claim of uncertainty holds, and what the camera stamped is right to a millisecond."""
    times = [frame.info.timestamp for frame in frames]
    assert all(a < b for a, b in pairwise(times))
    for frame in frames:
        assert frame.info.timestamp_uncertainty_ms is not None
        assert abs(frame.error) <= frame.info.timestamp_uncertainty_ms / 1000
        if frame.info.timestamp_source == "rtcp":
            assert abs(frame.error) < 0.001
            assert frame.info.camera_timestamp == frame.info.timestamp


async def test_stamps_are_the_cameras_from_the_second_report_on_over_a_wrap_and_with_b_pictures(
    kit: Kit, wrapping: Camera
) -> None:
    """Right after the camera's start, so that its RTP clock wraps while they run."""
    requests = {
        film: await kit.submit(wrapping.url_of(film), fps=5.0, capture_duration=5.0, **FIELDS)
        for film in ("h264", "h264b", "hevcb")
    }
    for film, request in requests.items():
        found = await kit.completed(request)
        assert (found.progress.stored, found.progress.dropped) == (25, {}), film
        frames = await kit.frames(request)
        check(frames)
        sources = [frame.info.timestamp_source.value for frame in frames]
        first = sources.index("rtcp")
        assert set(sources[first:]) == {"rtcp"}, film
        assert frames[first].info.timestamp.timestamp() - frames[0].info.timestamp.timestamp() < 2.5, film


async def test_all_frames_over_the_change_of_clocks(kit: Kit, wrapping: Camera) -> None:
    """Every picture on its slot while the source changes from receipt to rtcp: none twice, none out of order."""
    request = await kit.submit(wrapping.url_of("h264b"), fps=25.0, capture_duration=4.0, **FIELDS)
    found = await kit.completed(request)
    frames = await kit.frames(request)
    check(frames)
    assert {frame.info.timestamp_source for frame in frames} == {"receipt", "rtcp"}
    assert len({frame.number for frame in frames}) == len(frames) >= 96
    assert found.progress.stored + sum(found.progress.dropped.values()) == 100


async def test_a_camera_whose_clock_is_off_is_told_and_stamped_by_receipt(
    kit: Kit, films: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    with Camera(films["h264"], join="burst", report_every=0.3, clock_offset=90.0) as camera:
        camera_id = unique()
        await kit.services.cameras.create(CameraCreate(camera_id=camera_id, rtsp_url=camera.url), who=ANONYMOUS)
        request = await kit.submit(camera.url, camera_id, fps=5.0, capture_duration=4.0, **FIELDS)
        await kit.until(request, lambda r: r.progress.stored >= 15)
        stream = (await kit.services.cameras.get(camera_id, cameras=ALL_CAMERAS)).stream
        assert stream is not None
        assert stream.clock is not None
        assert stream.clock.source == "receipt"
        assert stream.clock.offset_ms == pytest.approx(90_000, abs=100)
        assert CAMERA_CLOCKS_OFF._value.get() == 1
        await kit.completed(request)
        frames = await kit.frames(request)
        probe = await kit.services.cameras.probe_url(ProbeRequest(rtsp_url=camera.url), ANONYMOUS)
    check(frames)
    assert {frame.info.timestamp_source for frame in frames} == {"receipt"}
    told = [frame for frame in frames if frame.info.camera_timestamp is not None]
    assert len(told) >= 10
    for frame in told:
        assert frame.info.camera_timestamp is not None
        assert frame.info.camera_timestamp.timestamp() - 90 == pytest.approx(frame.taken, abs=0.001)
    assert probe.clock is not None
    assert probe.clock.source == "receipt"
    assert probe.clock.offset_ms == pytest.approx(90_000, abs=100)
    assert any("90.0 s ahead" in line for line in probe.warnings)
    written = "".join(capfd.readouterr())
    assert written.count("camera_clock_off") == 2  # the capture's connection and the probe's, once each
    assert camera_id in written
    deadline = asyncio.get_running_loop().time() + 5
    while CAMERA_CLOCKS_OFF._value.get():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)


async def test_a_probe_waits_for_the_second_report_and_not_for_none(kit: Kit, films: dict[str, Path]) -> None:
    for every, source in ((4.0, "rtcp"), (0.0, "receipt")):
        with Camera(films["h264"], join="burst", report_every=every) as camera:
            began = asyncio.get_running_loop().time()
            found = await kit.services.cameras.probe_url(ProbeRequest(rtsp_url=camera.url), ANONYMOUS)
            took = asyncio.get_running_loop().time() - began
        assert found.clock is not None
        assert (found.clock.source, found.clock.offset_ms is None) == (source, source == "receipt")
        assert took < 11 if every else took < 5
        if found.clock.offset_ms is not None:
            assert -100 < found.clock.offset_ms <= 1  # in step, seen through the delay


async def test_a_camera_that_restarts_with_another_rtp_origin(kit: Kit, films: dict[str, Path]) -> None:
    with Camera(films["h264"], join="burst", report_every=0.3, rtp_start=2**31) as camera:
        request = await kit.submit(camera.url, fps=5.0, capture_duration=7.0, **FIELDS)
        await kit.until(request, lambda r: r.progress.stored >= 12)
        camera.kill()
        again = Camera(films["h264"], port=camera.port, join="burst", report_every=0.3, rtp_start=1)
        await asyncio.to_thread(again.start)
        try:
            found = await kit.completed(request)
        finally:
            again.stop()
    assert found.progress.reconnects == 1
    frames = await kit.frames(request)
    check(frames)
    assert frames[-1].info.timestamp_source == "rtcp"


async def test_a_camera_that_sends_reports_and_no_pictures_is_opened_anew(
    kit: Kit, films: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """Reports are no pictures: without those the connection ends after RTSP__READ_TIMEOUT."""
    with Camera(films["h264"], join="burst", report_every=0.3) as camera, FaultProxy(camera.port) as proxy:
        camera_id = unique()
        request = await kit.submit(proxy.url(camera.names[0]), camera_id, fps=5.0, **FIELDS)
        await kit.until(request, lambda r: r.progress.stored >= 5)
        before = proxy.total
        proxy.lose(1)  # every RTP packet; reports pass
        await until(lambda: proxy.total > before, 15)
        proxy.clear()
        stored = (await kit.get(request)).progress.stored
        found = await kit.until(request, lambda r: r.progress.stored >= stored + 10, 15)
        assert found.progress.reconnects >= 1
        assert set(found.progress.dropped) <= {"camera_down", "no_picture"}
        await until(lambda: proxy.playing == 1, 10)
        await kit.services.orchestrator.cancel(request, cameras=ALL_CAMERAS)
        check(await kit.frames(request))
    written = "".join(capfd.readouterr())
    assert "code=read_timeout" in written
    assert camera_id in written
