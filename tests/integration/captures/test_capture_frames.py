"""What captures store: exactly the slots of the grid, each the nearest picture, rightly timed, whole, in true colours.

All captures run side by side on one camera that shows films with a number in every picture (`results`).
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import pytest_asyncio

from demo.camera import Camera
from demo.film import read_frame_number
from demo.scene import Scene
from models.schemas import IngestionResponse
from models.values import IngestionStatus
from services.storage_service.service import StorageService
from tests.conftest import Backends, unique
from tests.kits.capture_kit import FPS, FRAME, PICTURES, SIZE, Kit, Stored, open_kit

pytestmark = pytest.mark.alone

MAX_ERROR = 0.05  # seconds; measured: 1-5 ms alone, more while both cores are busy
LONG = 12.0


@dataclass
class Result:
    request: IngestionResponse
    frames: list[Stored]
    fields: dict[str, Any]

    @property
    def fps(self) -> float:
        return float(self.fields.get("fps", 1.0))

    def slot_time(self, slot: int) -> float:
        assert self.request.grid_start is not None
        return self.request.grid_start.timestamp() + slot / self.fps


WANTED: dict[str, tuple[str, dict[str, Any]]] = {
    "h264 exact": ("h264", {"sampling": "exact", "fps": 5.0, "capture_duration": 5.0}),
    "h264 b exact": ("h264b", {"sampling": "exact", "fps": 5.0, "capture_duration": 5.0}),
    "h264 b all": ("h264b", {"sampling": "exact", "fps": 25.0, "capture_duration": 2.0}),
    "hevc exact": ("hevc", {"sampling": "exact", "fps": 5.0, "capture_duration": 5.0}),
    "hevc b exact": ("hevcb", {"sampling": "exact", "fps": 5.0, "capture_duration": 5.0}),
    "odd fps": ("h264", {"sampling": "exact", "fps": 2.7, "capture_duration": 4.0}),
    "auto": ("h264", {"sampling": "auto", "fps": 1.0, "capture_duration": 5.0}),
    "auto between keys": ("long", {"sampling": "auto", "fps": 2.0, "capture_duration": 6.0}),
    "keyframe": ("h264b", {"sampling": "keyframe", "fps": 1.0, "capture_duration": 4.0}),
    "keyframe, more slots than keys": ("hevc", {"sampling": "keyframe", "fps": 2.0, "capture_duration": 4.0}),
    "more than the camera's fps": ("hevcb", {"sampling": "exact", "fps": 30.0, "capture_duration": 2.0}),
    "max_frames": ("h264", {"sampling": "exact", "fps": 10.0, "capture_duration": 30.0, "max_frames": 7}),
    "max_frames without an end": ("h264", {"sampling": "auto", "fps": 4.0, "max_frames": 3}),
    "long": ("h264b", {"sampling": "exact", "fps": 2.0, "capture_duration": LONG}),
    "single": ("h264", {"capture_mode": "single_frame"}),
    "single hevc": ("hevcb", {"capture_mode": "single_frame"}),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kit(
    backends: Backends, storage: StorageService, reader: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Kit]:
    async with open_kit(
        backends,
        storage,
        tmp_path_factory.mktemp("data"),
        CAPTURE_TIMEOUT=15,
        OPEN_TIMEOUT=5,
        READ_TIMEOUT=5,
        STORE_RETRY=30,
        READER=reader,
    ) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def results(kit: Kit, films: dict[str, Path]) -> dict[str, Result]:
    made: dict[str, Result] = {}

    async def run(name: str, film: str, fields: dict[str, Any]) -> None:
        fields = {"capture_mode": "continuous", **fields}
        request = await kit.submit(camera.url_of(film), camera_ids[film], **fields)
        found = await kit.final(request, LONG + 15)
        made[name] = Result(found, await kit.frames(request), fields)

    with Camera(films, report_every=0) as camera:  # all by receipt: test_capture_rtcp is about the camera's clock
        camera_ids = {film: unique(film) for film in films}
        cpu, began = time.process_time(), time.monotonic()
        async with asyncio.TaskGroup() as group:
            for name, (film, fields) in WANTED.items():
                group.create_task(run(name, film, fields))
        print(f"\nCPU of {len(WANTED)} captures: {(time.process_time() - cpu) / (time.monotonic() - began):.2f} cores")
    return made


ALL = list(WANTED)
EVERY_SLOT = [name for name in ALL if "more" not in name and "max_frames" not in name]


@pytest.mark.parametrize("name", ALL)
async def test_it_completes_with_every_slot_accounted_for(results: dict[str, Result], name: str) -> None:
    request = results[name].request
    assert request.status is IngestionStatus.COMPLETED, request
    assert request.error is None
    progress = request.progress
    assert progress.reconnects == 0
    assert progress.gaps == []
    fields = results[name].fields
    if name in EVERY_SLOT:
        slots = math.ceil(fields["capture_duration"] * fields["fps"] - 1e-9) if "fps" in fields else 1
        assert (progress.expected, progress.stored, progress.dropped) == (slots, slots, {}), progress
        assert [frame.info.sequence for frame in results[name].frames] == list(range(slots))
    assert len(results[name].frames) == progress.stored == request.frames_total


@pytest.mark.parametrize("name", ALL)
async def test_each_frame_is_whole_and_its_time_is_true(results: dict[str, Result], name: str) -> None:
    result = results[name]
    errors = [frame.error for frame in result.frames]
    print(f"\n{name}: timestamp error {statistics.mean(errors) * 1000:.1f} ms, worst {max(map(abs, errors)) * 1000:.1f}")
    assert max(abs(error) for error in errors) < MAX_ERROR
    times = [frame.info.timestamp for frame in result.frames]
    assert all(a < b for a, b in pairwise(times))
    numbers = [frame.number for frame in result.frames]
    assert len(set(times)) == len(times)
    assert len(set(numbers[: PICTURES // FPS])) == len(numbers[: PICTURES // FPS])
    for frame in result.frames:
        info = frame.info
        assert info.timestamp_source == "receipt"
        assert info.timestamp_uncertainty_ms is not None
        assert abs(frame.error) <= info.timestamp_uncertainty_ms / 1000
        assert (info.width, info.height, info.format, info.content_type) == (*SIZE, "jpg", "image/jpeg")
        assert info.request_id == result.request.request_id
        assert info.stored_at > info.timestamp


@pytest.mark.parametrize(
    "name", [name for name in EVERY_SLOT if "exact" in name or name in ("odd fps", "long", "h264 b all")]
)
async def test_exact_takes_the_nearest_of_all_pictures(results: dict[str, Result], name: str) -> None:
    result = results[name]
    systematic = statistics.median(frame.error for frame in result.frames)
    for frame in result.frames:
        distance = frame.taken + systematic - result.slot_time(frame.info.sequence)
        assert abs(distance) <= FRAME / 2 + 0.004, f"slot {frame.info.sequence}"
    steps = {(b.number - a.number) % PICTURES for a, b in pairwise(result.frames)}
    if FPS % result.fps == 0 or name == "long":  # slots fall on pictures, or half-way between two
        assert steps <= {math.floor(FPS / result.fps), math.ceil(FPS / result.fps)}
    if FPS % result.fps == 0:
        assert steps == {FPS / result.fps}


async def test_auto_takes_keyframes_where_there_are_some(results: dict[str, Result]) -> None:
    assert [frame.number % FPS for frame in results["auto"].frames] == [0] * 5
    mixed = results["auto between keys"]
    keys = [frame.number % (4 * FPS) == 0 for frame in mixed.frames]
    assert keys == [slot % 8 == 0 for slot in range(12)]  # a key every 4 s, a slot every 0.5
    for frame in mixed.frames:
        assert abs(frame.info.timestamp.timestamp() - mixed.slot_time(frame.info.sequence)) <= FRAME / 2 + 0.004


async def test_keyframe_takes_nothing_else(results: dict[str, Result]) -> None:
    assert [frame.number % FPS for frame in results["keyframe"].frames] == [0] * 4
    sparse = results["keyframe, more slots than keys"]
    assert [frame.number % FPS for frame in sparse.frames] == [0] * 4
    assert [frame.info.sequence for frame in sparse.frames] == [0, 2, 4, 6]
    assert sparse.request.progress.dropped == {"no_picture": 4}


async def test_more_slots_than_pictures_are_dropped_for_want_of_one(results: dict[str, Result]) -> None:
    progress = results["more than the camera's fps"].request.progress
    assert progress.expected == 60
    assert set(progress.dropped) == {"no_picture"}
    assert 49 <= progress.stored <= 51


async def test_max_frames_ends_a_capture_exactly(results: dict[str, Result]) -> None:
    for name, wanted in (("max_frames", 7), ("max_frames without an end", 3)):
        request = results[name].request
        assert request.progress.stored == wanted
        assert [frame.info.sequence for frame in results[name].frames] == list(range(wanted))
        assert request.progress.expected == wanted + sum(request.progress.dropped.values())
        assert set(request.progress.dropped) <= {"surplus"}
        assert request.completed_at is not None
        assert request.started_at is not None
        assert (request.completed_at - request.started_at).total_seconds() < 15


async def test_lag_does_not_grow(results: dict[str, Result]) -> None:
    frames = results["long"].frames
    lags = [(frame.info.stored_at.timestamp() - frame.taken) for frame in frames]
    early, late = statistics.median(lags[5:12]), statistics.median(lags[-7:])  # the others have ended by then
    print(f"\nlag: {early * 1000:.0f} ms early, {late * 1000:.0f} ms late, worst {max(lags) * 1000:.0f}")
    assert late <= early + 0.1
    assert late < 1.0


async def test_frames_that_come_close_together_are_committed_together(results: dict[str, Result]) -> None:
    def commits(name: str) -> int:
        """Rows of one statement are written within some milliseconds."""
        times = sorted(frame.info.stored_at.timestamp() for frame in results[name].frames)
        return 1 + sum(b - a > 0.02 for a, b in pairwise(times))

    print(f"\n{commits('h264 b all')} commits of {len(results['h264 b all'].frames)} frames")
    assert commits("h264 b all") <= 25
    assert commits("keyframe") == len(results["keyframe"].frames)  # one a second: none waits for the next


async def test_the_source_is_told(results: dict[str, Result]) -> None:
    for name, codec in (("h264 b exact", "h264"), ("hevc exact", "hevc")):
        source = results[name].request.source
        assert source is not None
        assert (source.codec, source.width, source.height, source.fps) == (codec, *SIZE, 25.0)


async def test_the_colours_are_the_cameras(results: dict[str, Result], films: dict[str, Path]) -> None:
    """Against a decode of the film by FFmpeg's own conversion, and against the scene as it was drawn."""
    for name, film in (("h264 b exact", "h264b"), ("hevc exact", "hevc")):
        frame = results[name].frames[3]
        with av.open(str(films[film])) as container:
            shown = (f.to_ndarray(format="bgr24") for f in container.decode(video=0))
            reference = next(image for image in shown if read_frame_number(image) == frame.number)
        difference = reference.astype(int) - frame.image.astype(int)
        assert np.abs(difference).mean() < 5.0, name  # JPEG at quality 90 of a small, busy picture
        assert np.abs(difference.mean(axis=(0, 1))).max() < 2.5, name  # libswscale's quick conversion is 2 off in green
        drawn = Scene(*SIZE, 1, "CAM 1").render(frame.number / FPS, "", frame.number)
        colour = [np.abs(drawn[..., c].astype(int) - frame.image[..., c].astype(int)).mean() for c in range(3)]
        assert max(colour) < 12, (name, colour)  # of coding at 300 kbit/s and the missing clock
        means = [abs(float(drawn[..., c].mean()) - float(frame.image[..., c].mean())) for c in range(3)]
        assert max(means) < 2, (name, means)


async def test_bytes_are_those_of_the_row(results: dict[str, Result], kit: Kit) -> None:
    for frame in results["auto"].frames:
        data = await kit.storage.get(frame.info.storage_path)
        assert hashlib.sha256(data).hexdigest() == frame.info.sha256
        assert data[:2] == b"\xff\xd8"
        assert frame.info.request_id.hex not in frame.info.storage_path  # a key of its own, by camera and day
        assert f"/{frame.info.camera_id}/" in frame.info.storage_path


async def test_high_definition_is_bt709(kit: Kit, tmp_path: Path) -> None:
    """720 lines and no matrix named in the stream: players, and so this service, take BT.709."""
    from demo.film import make_film

    film = make_film(tmp_path, width=1280, height=720, seconds=1.0, bitrate=4_000_000)
    with Camera(film) as camera:
        request = await kit.submit(camera.url, capture_mode="single_frame", jpeg_quality=95)
        await kit.completed(request)
    info = (await kit.get(request)).frames[0]
    assert (info.width, info.height) == (1280, 720)
    image: Any = cv2.imdecode(np.frombuffer(await kit.storage.get(info.storage_path), np.uint8), cv2.IMREAD_COLOR)
    number = read_frame_number(image)
    assert number is not None
    with av.open(str(film)) as container:
        planes = next(f for f in container.decode(video=0) if read_frame_number(f.to_ndarray(format="bgr24")) == number)
        reference = planes.reformat(format="bgr24", src_colorspace="ITU709").to_ndarray()
        other = planes.reformat(format="bgr24", src_colorspace="ITU601").to_ndarray()
    right, wrong = (np.abs(each.astype(int) - image.astype(int)).mean() for each in (reference, other))
    assert right < 3.0
    assert wrong > 1.5 * right


def test_opencv_is_told_to_be_quiet() -> None:
    assert os.environ["OPENCV_FFMPEG_LOGLEVEL"] == "-8"
    assert os.environ["OPENCV_LOG_LEVEL"] == "SILENT"
