"""Captures side by side: one connection a camera, one decode a picture, bounded streams, nothing left behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio

from demo.camera import Camera
from demo.faults import FaultProxy
from models.access import ALL_CAMERAS, ANONYMOUS
from models.values import IngestionStatus, RequestFilter
from services.rtsp_capture.media.decoder import PictureDecoder
from services.rtsp_capture.media.gop_buffer import Packet, Picture
from services.rtsp_capture.media.packets import Jpeg
from services.rtsp_capture.streams.trials import PROOF
from services.storage_service.service import StorageService
from tests.conftest import Backends, unique
from tests.kits.capture_kit import FRAME, PICTURES, Kit, open_kit, until
from tests.kits.service_support import own_database
from utils.metrics import TRIAL_PICTURES


def tried_pictures() -> float:
    """Pictures decoded in a worker process so far, whatever became of them."""
    return sum(one.value for metric in TRIAL_PICTURES.collect() for one in metric.samples if one.name.endswith("_total"))


@pytest.fixture(scope="module")
def camera(films: dict[str, Path]) -> Iterator[Camera]:
    with Camera({name: films[name] for name in ("h264", "h264b", "hevc")}) as camera:
        yield camera


@pytest.fixture
def proxy(camera: Camera) -> Iterator[FaultProxy]:
    with FaultProxy(camera.port) as proxy:
        yield proxy


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kit(
    backends: Backends, storage: StorageService, reader: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Kit]:
    async with open_kit(backends, storage, tmp_path_factory.mktemp("data"), READER=reader, READ_TIMEOUT=5) as made:
        yield made


@pytest.mark.alone
async def test_three_captures_share_one_connection_and_each_picture_is_decoded_once(
    kit: Kit, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[tuple[Packet, int]] = []
    original = PictureDecoder.decode

    def decode(self: PictureDecoder, picture: Picture, quality: int) -> Jpeg:
        decoded.append((picture.packet, quality))
        return original(self, picture, quality)

    monkeypatch.setattr(PictureDecoder, "decode", decode)
    tried = tried_pictures()
    camera_id, url = unique(), proxy.url("h264")
    fields = {"capture_mode": "continuous", "capture_duration": 3.0}
    # Right after a keyframe, so that both twins begin with the next one. The others want qualities of their own, so
    # that which of their pictures happen to be keyframes makes no difference to the count.
    other = await kit.submit(url, camera_id, fps=5.0, sampling="exact", jpeg_quality=80, **fields)
    await kit.until(other, lambda r: r.progress.stored > 0)
    await until(lambda: 0.1 < (time.time() - FRAME) % 1.0 < 0.3)  # the film's keyframes are on the second
    twins = [await kit.submit(url, camera_id, fps=1.0, **fields) for _ in range(2)]
    for request in (*twins, other):
        await kit.until(request, lambda r: r.progress.stored > 0)
        assert proxy.playing == 1
    single = await kit.completed(await kit.submit(url, camera_id, capture_mode="single_frame", jpeg_quality=70), 1.0)
    assert single.completed_at is not None
    assert (single.completed_at - single.created_at).total_seconds() < 0.5  # from the open stream: no opening, no keyframe
    assert proxy.playing == 1
    first, second = [await kit.completed(request) for request in twins]
    third = await kit.completed(other)
    assert [r.progress.stored for r in (first, second, third)] == [3, 3, 15]
    assert sum(r.method == "PLAY" for r in proxy.requests) == 1
    a, b = [await kit.frames(request) for request in twins]
    assert [frame.info.sha256 for frame in a] == [frame.info.sha256 for frame in b]
    steps = [(y.number - x.number) % PICTURES for x, y in pairwise(await kit.frames(other))]
    assert set(steps) == {5}
    on_trial = tried_pictures() - tried  # by a worker process
    assert 0 < on_trial <= PROOF
    assert len(decoded) + on_trial == 3 + 15 + 1  # the twins' three pictures once, not twice
    assert len({(id(packet), quality) for packet, quality in decoded}) == len(decoded)


async def test_a_stream_lingers_and_then_closes(
    backends: Backends, storage: StorageService, proxy: FaultProxy, reader: str, tmp_path: Path
) -> None:
    linger = 3.0  # longer than a loaded machine takes from one capture to the next
    async with open_kit(await own_database(backends), storage, tmp_path, READER=reader, LINGER=linger) as kit:
        camera_id = unique()
        await kit.completed(await kit.submit(proxy.url("h264"), camera_id, capture_mode="single_frame"))
        assert proxy.playing == 1
        await kit.completed(await kit.submit(proxy.url("h264"), camera_id, capture_mode="single_frame"))
        assert sum(r.method == "PLAY" for r in proxy.requests) == 1  # the lingering one was taken
        began = time.monotonic()
        await until(lambda: not proxy.open, 2 * linger)
        assert time.monotonic() - began > linger / 2


async def test_another_camera_id_or_transport_is_another_connection(kit: Kit, proxy: FaultProxy) -> None:
    requests = [
        await kit.submit(proxy.url("h264"), unique(), capture_mode="continuous", capture_duration=1.0, fps=2.0)
        for _ in range(2)
    ]
    for request in requests:
        await kit.completed(request)
    assert sum(r.method == "PLAY" for r in proxy.requests) == 2


@pytest.mark.alone
async def test_a_future_moment_gets_the_picture_nearest_to_it(kit: Kit, camera: Camera) -> None:
    from datetime import UTC, datetime, timedelta

    moments = [datetime.now(UTC) + timedelta(seconds=s) for s in (2.5, 3.013, 3.207)]
    camera_id = unique()
    requests = [
        await kit.submit(camera.url_of("h264b"), camera_id, capture_mode="single_frame", frame_timestamp=moment)
        for moment in moments
    ]
    for moment, request in zip(moments, requests, strict=True):
        found = await kit.completed(request, 6)
        assert found.completed_at is not None
        assert found.completed_at > moment
        assert (found.progress.expected, found.progress.stored) == (1, 1)
        (frame,) = await kit.frames(request)
        assert abs(frame.taken - moment.timestamp()) <= FRAME / 2 + 0.01


async def test_streams_are_bounded_and_the_others_wait_their_turn(
    backends: Backends, storage: StorageService, camera: Camera, reader: str, tmp_path: Path
) -> None:
    with FaultProxy(camera.port) as proxy:
        bounds = {"MAX_CONCURRENT_STREAMS": 2, "LINGER": 30}
        async with open_kit(await own_database(backends), storage, tmp_path, READER=reader, **bounds) as kit:
            fields = {"capture_mode": "continuous", "capture_duration": 2.0, "fps": 2.0}
            cameras = [unique() for _ in range(5)]
            requests = [await kit.submit(proxy.url("h264"), camera_id, **fields) for camera_id in cameras]
            readers = {f"rtsp-{camera_id}" for camera_id in cameras}
            left = set(requests)
            most = 0
            waited: set[object] = set()
            deadline = time.monotonic() + 40  # three turns: how soon is not asked here
            while left:
                assert time.monotonic() < deadline
                running = RequestFilter(status=IngestionStatus.IN_PROGRESS)
                page = await kit.services.queries.list_requests(running, 50, None, ANONYMOUS)
                most = max(most, len(page.items))
                for request in list(left):
                    found = await kit.get(request)
                    if found.status is IngestionStatus.PENDING:
                        waited.add(request)
                    if found.status is IngestionStatus.COMPLETED:
                        assert (found.progress.stored, found.progress.expected) == (4, 4)
                        left.discard(request)
                assert sum(thread.name in readers for thread in threading.enumerate()) <= 2
                await asyncio.sleep(0.1)
            assert most == 2
            assert len(waited) >= 3  # told as pending, not as running; before the first claim, all are


async def test_nothing_is_left_behind(
    backends: Backends, storage: StorageService, camera: Camera, reader: str, tmp_path: Path
) -> None:
    """Services close while streams are open, opening and hanging: no thread, no connection stays."""

    def threads() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name.startswith(("rtsp-", "decode"))}

    own = await own_database(backends)
    before = threads()
    with FaultProxy(camera.port) as good, FaultProxy(camera.port) as silent, FaultProxy(camera.port) as stalled:
        silent.black_hole()
        async with open_kit(own, storage, tmp_path, READER=reader) as kit:
            running = await kit.submit(good.url("h264"), capture_mode="continuous", fps=2.0)
            await kit.submit(silent.url("h264"), capture_mode="continuous", fps=2.0)
            frozen = await kit.submit(stalled.url("h264"), capture_mode="continuous", fps=2.0)
            for request in (running, frozen):
                await kit.until(request, lambda r: r.progress.stored > 0)
            stalled.freeze()
            assert len(threads() - before) >= 2
            await asyncio.sleep(0.2)
            began = time.monotonic()
        assert time.monotonic() - began < 3
        assert threads() <= before
        await until(lambda: not (good.open or stalled.open), 2)
    async with open_kit(own, storage, tmp_path, READER=reader) as kit:
        # Handed back: another process goes on, and ends it here.
        for request in (running, frozen):
            await kit.services.orchestrator.cancel(request, cameras=ALL_CAMERAS)
            assert (await kit.final(request)).status is IngestionStatus.CANCELLED
