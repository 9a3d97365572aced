"""The sharpest of several: on a camera whose film is blurred in all pictures but each fifth, sharp ones are stored.

The number along a picture's edge says which it is, and is never blurred.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from demo.camera import Camera
from demo.film import make_film
from models.access import ANONYMOUS
from models.schemas import BurstRequest, CameraCreate, SnapshotRequest
from services.storage_service.service import StorageService
from tests.conftest import Backends, unique
from tests.kits.capture_kit import FPS, SIZE, Kit, Stored, open_kit
from utils.metrics import REGISTRY

pytestmark = pytest.mark.paced

EVERY = 5
PICK = {"of": 5, "within_s": 0.5, "best": "sharpest"}  # of five pictures in a row one is sharp


@pytest.fixture(scope="module", params=["opencv", "native"])
def reader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def camera(film_folder: Path) -> Iterator[Camera]:
    # No keyframe of the first is sharp: its first picture has the number 2. Of the second each second one is.
    common: dict[str, Any] = {"width": 320, "height": 184, "fps": FPS, "seconds": 4.0, "bitrate": 1_500_000}
    films = {
        "h264": make_film(film_folder, codec="h264", bframes=2, sharp_every=EVERY, first=2, **common),
        "mjpeg": make_film(film_folder, codec="mjpeg", sharp_every=EVERY, first=2, **common),
        "keys": make_film(film_folder, codec="h264", gop=5, sharp_every=2 * EVERY, **common),
    }
    with Camera(films, report_every=0) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kit(
    backends: Backends, storage: StorageService, reader: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Kit]:
    limits = {"CAPTURE_TIMEOUT": 15, "OPEN_TIMEOUT": 5, "READ_TIMEOUT": 5, "STORE_RETRY": 30, "READER": reader}
    async with open_kit(backends, storage, tmp_path_factory.mktemp("data"), **limits) as made:
        yield made


async def _open(kit: Kit, url: str) -> str:
    """A camera that is kept open, and has been for some seconds."""
    camera_id = unique()
    body = CameraCreate.model_validate({"camera_id": camera_id, "rtsp_url": url, "keep_open": True})
    await kit.services.cameras.create(body, ANONYMOUS)
    for _ in range(100):
        stream = (await kit.services.cameras.get(camera_id, ANONYMOUS.cameras)).stream
        if stream is not None and stream.ring_seconds > 2:
            return camera_id
        await asyncio.sleep(0.1)
    pytest.fail("the stream was not opened")


def _cut_short() -> float:
    """Picks that could not compare all of their pictures: on a busy machine some, and these prove nothing."""
    outcomes = ("some", "behind")
    return sum(REGISTRY.get_sample_value("ingestion_picks_total", {"outcome": one}) or 0 for one in outcomes)


def _all_sharp(sharp: list[bool], cut_short: float) -> None:
    """Each one that could be compared is; most could."""
    assert sharp.count(False) <= cut_short, sharp
    assert cut_short <= len(sharp) / 2


def _sharp(frames: list[Stored], every: int = EVERY) -> list[bool]:
    return [frame.number % every == 0 for frame in frames]


async def test_slots_of_a_capture(kit: Kit, camera: Camera) -> None:
    continuous = {"capture_mode": "continuous", "capture_duration": 3.0, "fps": 2.0}

    async def run(film: str, **fields: Any) -> list[Stored]:
        camera_id = unique(film)  # which proves itself by the first pictures, decoded in a worker process that starts
        await kit.completed(await kit.submit(camera.url_of(film), camera_id, pick=PICK))
        request = await kit.submit(camera.url_of(film), camera_id, **{**continuous, **fields})
        found = await kit.completed(request)
        assert (found.progress.stored, found.progress.dropped) == (6, {})
        frames = await kit.frames(request)
        assert [frame.info.sequence for frame in frames] == list(range(6))
        assert found.grid_start is not None
        for frame in frames:  # each of its own slot, with its own time
            due = found.grid_start + timedelta(seconds=frame.info.sequence / 2)
            assert abs(frame.info.timestamp - due) < timedelta(seconds=0.25)
        moved = [later.info.timestamp - one.info.timestamp for one, later in itertools.pairwise(frames)]
        pictures = [round(each.total_seconds() * FPS) for each in moved]
        assert pictures == [(later.number - one.number) % 100 for one, later in itertools.pairwise(frames)]
        return frames

    before = _cut_short()
    async with asyncio.TaskGroup() as group:
        auto, exact, mjpeg, plain, keys, plain_keys = [
            group.create_task(run(film, **fields))
            for film, fields in (
                ("h264", {"pick": PICK}), ("h264", {"pick": PICK, "sampling": "exact"}), ("mjpeg", {"pick": PICK}),
                ("h264", {"sampling": "exact"}), ("keys", {"pick": PICK, "sampling": "keyframe"}),
                ("keys", {"sampling": "keyframe"}),
            )
        ]  # fmt: skip
    sharp = [one for frames in (auto, exact, mjpeg) for one in _sharp(frames.result())]
    _all_sharp(sharp + _sharp(keys.result(), 2 * EVERY), _cut_short() - before)
    assert not all(_sharp(plain.result()))
    assert all(frame.number % 5 == 0 for frame in keys.result())
    assert not all(_sharp(plain_keys.result(), 2 * EVERY))


async def test_one_picture_of_a_camera_that_is_not_open(kit: Kit, camera: Camera) -> None:
    async def run(**fields: Any) -> Stored:
        request = await kit.submit(camera.url_of("h264"), unique(), **fields)
        found = await kit.completed(request)
        (frame,) = await kit.frames(request)
        assert (found.progress.expected, found.progress.stored, frame.info.sequence) == (1, 1, 0)
        return frame

    before = _cut_short()
    picked = [await run(pick=PICK) for _ in range(2)]
    _all_sharp(_sharp(picked), _cut_short() - before)


async def test_an_open_stream(kit: Kit, camera: Camera) -> None:
    first, second = await asyncio.gather(_open(kit, camera.url_of("h264")), _open(kit, camera.url_of("mjpeg")))

    # Of the newest pictures some are not there yet: those that are shown before the newest one and sent after it.
    many = {**PICK, "of": 10}

    async def snapshot(camera_id: str) -> int:
        body = SnapshotRequest.model_validate({"pick": many})
        frame = await kit.services.snapshots.take(camera_id, body, ANONYMOUS)
        assert abs(datetime.now(UTC) - frame.timestamp) < timedelta(seconds=3)
        return (await kit.frames(frame.request_id))[0].number

    async def moment(ago: float) -> int:
        at = datetime.now(UTC) - timedelta(seconds=ago)
        request = await kit.submit(camera.url_of("h264"), first, frame_timestamp=at, pick=many)
        await kit.completed(request)
        (frame,) = await kit.frames(request)
        assert abs(frame.info.timestamp - at) < timedelta(seconds=0.4)
        return frame.number

    async def burst() -> list[int]:
        body = BurstRequest.model_validate({"camera_ids": [first, second], "pick": many, "tolerance_ms": 400})
        answer = await kit.services.bursts.take(body, ANONYMOUS)
        assert answer.complete
        assert all(abs(result.offset_ms or 0) <= 400 for result in answer.results)
        return [(await kit.frames(result.request_id))[0].number for result in answer.results]

    before = _cut_short()
    numbers = [await snapshot(camera_id) for camera_id in (first, second) for _ in range(3)]
    numbers += [await moment(ago) for ago in (0.5, 1.13, 1.5)]
    numbers += await burst()
    assert len(numbers) == 11
    _all_sharp([number % EVERY == 0 for number in numbers], _cut_short() - before)


async def test_a_stream_that_ends_while_others_are_waited_for(kit: Kit, film_folder: Path) -> None:
    """The picture that came is stored: none is lost because others were to be compared with it."""
    film = make_film(film_folder, width=SIZE[0], height=SIZE[1], fps=2, gop=2, seconds=4.0)
    with Camera({"slow": film}, report_every=0) as camera:
        request = await kit.submit(camera.url_of("slow"), pick={"of": 25, "within_s": 2.0})
        await kit.until(request, lambda found: found.grid_start is not None)
    found = await kit.completed(request, 12)
    assert found.progress.stored == 1
    assert found.grid_start is not None
    assert abs(found.frames[0].timestamp - found.grid_start) <= timedelta(seconds=2)
