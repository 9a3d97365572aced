"""A store that is slow or stands still: memory is bounded, the newest pictures win, and some always arrive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from demo.camera import Camera
from models.values import IngestionStatus
from services.rtsp_capture.frames.picture_budget import PictureBudget
from services.rtsp_capture.media.decoder import PictureDecoder
from services.storage_service.service import StorageService
from tests.conftest import Backends
from tests.kits.capture_kit import FPS, Kit, open_kit
from tests.kits.service_support import own_database
from tests.kits.tcp_proxy import TcpProxy
from utils.metrics import PICTURE_BYTES, QUEUE_DEPTH, SPOOL_WRITTEN

pytestmark = pytest.mark.paced


@pytest.fixture(scope="module")
def camera(films: dict[str, Path]) -> Iterator[Camera]:
    with Camera(films["h264"], name="h264", join="burst") as camera:
        yield camera


@pytest.fixture
def slow(backends: Backends) -> Iterator[TcpProxy]:
    """The session's object store behind a proxy."""
    endpoint = backends.storage.ENDPOINT
    address = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    with TcpProxy(address.hostname or "127.0.0.1", address.port or 80) as proxy:
        yield proxy


async def behind(backends: Backends, proxy: TcpProxy) -> Backends:
    own = await own_database(backends)
    return replace(own, storage=own.storage.model_copy(update={"ENDPOINT": f"127.0.0.1:{proxy.port}"}))


def budget_of(kit: Kit) -> PictureBudget:
    return kit.services.orchestrator._capture.pictures


async def test_pictures_that_wait_for_a_store_that_stands_still_are_bounded_in_bytes(
    backends: Backends, storage: StorageService, slow: TcpProxy, camera: Camera, tmp_path: Path
) -> None:
    limit = 1_048_576
    own = await behind(backends, slow)
    async with open_kit(own, storage, tmp_path, PICTURE_BUDGET=limit, FRAME_BUFFER_SIZE=10_000) as kit:
        fields = {"capture_mode": "continuous", "capture_duration": 5.0, "fps": float(FPS), "sampling": "exact"}
        requests = [await kit.submit(camera.url, "slow-store", jpeg_quality=quality, **fields) for quality in (90, 100)]
        for request in requests:
            await kit.until(request, lambda r: r.progress.stored > 5)
        before = SPOOL_WRITTEN._value.get()
        slow.stall()
        most, reached = 0, 0
        deadline = time.monotonic() + 2.5
        largest = 60_000  # bytes of one picture, here
        while time.monotonic() < deadline:
            most = max(most, budget_of(kit).bytes)
            reached += budget_of(kit).bytes > limit - largest
            assert PICTURE_BYTES._value.get() <= limit + largest * 17  # those being PUT cannot be given up
            assert QUEUE_DEPTH.labels(queue="store")._value.get() < 2 * 5 * FPS
            await asyncio.sleep(0.05)
        assert reached > 5, f"the bound was never reached: {most}"
        slow.go_on()
        found = [await kit.final(request) for request in requests]
        for request, one in zip(requests, found, strict=True):
            assert one.status is IngestionStatus.COMPLETED
            await kit.replayed(request)
            assert [frame.info.sequence for frame in await kit.frames(request)] == list(range(5 * FPS))
        spooled = SPOOL_WRITTEN._value.get() - before
        print(f"\nmost bytes waiting: {most} of {limit}, spooled {spooled:.0f} of {2 * 5 * FPS}")
        assert spooled > 20
        assert most <= limit + largest * 17
    assert PICTURE_BYTES._value.get() == 0
    for queue in ("decode", "store", "rows"):
        assert QUEUE_DEPTH.labels(queue=queue)._value.get() == 0


async def test_with_a_slow_store_some_pictures_always_arrive_and_the_others_later(
    backends: Backends, storage: StorageService, slow: TcpProxy, camera: Camera, tmp_path: Path
) -> None:
    """A picture takes longer to store than it may wait: were the oldest given up in mid-PUT, none would arrive."""
    own = await behind(backends, slow)
    async with open_kit(own, storage, tmp_path, FRAME_BUFFER_SIZE=8) as kit:
        slow.delay = 0.8
        request = await kit.submit(
            camera.url, capture_mode="continuous", capture_duration=4.0, fps=float(FPS), sampling="exact"
        )
        found = await kit.completed(request)
        assert found.progress.expected == 4 * FPS
        assert set(found.progress.dropped) - {"queue_full"} == {"spooled"}  # those not decoded in time, 8 being held
        # 4 at once, 0.8 s each or somewhat more: about 5 a second.
        print(f"\nstored {found.progress.stored} of {found.progress.expected}, each PUT 0.8 s late")
        assert found.progress.stored >= 10
        slow.delay = 0
        await kit.replayed(request, but={"queue_full"})
        frames = await kit.frames(request)
        assert max(abs(frame.error) for frame in frames) < 0.1


async def test_with_a_slow_decoder_some_pictures_always_arrive(
    backends: Backends, storage: StorageService, camera: Camera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where the CPU is short: the picture being decoded is not given up for those that come meanwhile."""
    decode = PictureDecoder.decode

    def slowly(self: PictureDecoder, *arguments: Any) -> Any:
        time.sleep(0.15)
        return decode(self, *arguments)

    monkeypatch.setattr(PictureDecoder, "decode", slowly)
    async with open_kit(await own_database(backends), storage, tmp_path, FRAME_BUFFER_SIZE=3) as kit:
        request = await kit.submit(
            camera.url, capture_mode="continuous", capture_duration=4.0, fps=float(FPS), sampling="exact"
        )
        found = await kit.completed(request)
        print(f"\nstored {found.progress.stored} of {found.progress.expected}, each decode 0.15 s late")
        assert set(found.progress.dropped) == {"queue_full"}
        assert found.progress.stored >= 12  # 6 a second at most
