"""encoding source: the camera's own keyframes, stored as they came, in files that decode to the very same pictures.

All captures run side by side on one camera (`results`), once with each reader.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import pytest
import pytest_asyncio

from demo.camera import Camera
from demo.show import Show
from models.schemas import IngestionResponse
from models.values import IngestionStatus
from services.storage_service.service import StorageService
from tests.conftest import Backends, unique
from tests.kits.capture_kit import Kit, Stored, open_kit
from tests.kits.format_films import SHOWS

pytestmark = pytest.mark.paced

FORMATS = {
    "plain": "h264", "b": "h264", "open-gop": "h264", "slices": "h264", "interlaced": "h264", "sets-in-sdp": "h264",
    "hevc": "h265", "hevc-b": "h265", "hevc-open-gop": "h265", "hevc-sets-in-sdp": "h265", "mjpeg": "jpg",
}  # fmt: skip
SLOTS = 3
LATE = 0.3  # seconds: the keyframe of that moment, no other; how true times are is test_capture_formats' matter


@pytest.fixture(scope="module", params=["opencv", "native"])
def reader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass
class Result:
    request: IngestionResponse
    frames: list[Stored]
    files: list[bytes]
    single: list[Stored]


@pytest.fixture(scope="module")
def shows(film_folder: Path) -> dict[str, Show]:
    return {name: SHOWS[name](film_folder) for name in FORMATS}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kit(
    backends: Backends,
    storage: StorageService,
    reader: str,
    tmp_path_factory: pytest.TempPathFactory,
    shows: dict[str, Show],
) -> AsyncIterator[Kit]:
    folder = tmp_path_factory.mktemp("data")
    async with open_kit(
        backends, storage, folder, CAPTURE_TIMEOUT=20, OPEN_TIMEOUT=8, READ_TIMEOUT=5, READER=reader, SOURCE_CHECK=0
    ) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def results(kit: Kit, shows: dict[str, Show]) -> dict[str, Result]:
    made: dict[str, Result] = {}

    async def run(name: str, url: str) -> None:
        camera_id = unique(name)
        request = await kit.submit(
            url, camera_id, capture_mode="continuous", sampling="keyframe", encoding="source", fps=1.0,
            capture_duration=float(SLOTS),
        )  # fmt: skip
        single = await kit.submit(url, camera_id, encoding="source")
        await asyncio.sleep(SLOTS)  # who asks all the time keeps those waiting who store
        found = await kit.final(request, 40)
        await kit.completed(single)
        frames = await kit.frames(request)
        files = [await kit.storage.get(frame.info.storage_path) for frame in frames]
        made[name] = Result(found, frames, files, await kit.frames(single))

    with Camera(shows, join="burst", report_every=0) as camera:
        async with asyncio.TaskGroup() as group:
            for name in FORMATS:
                group.create_task(run(name, camera.url_of(name)))
    return made


@cache
def pictures_of(path: Path) -> dict[str, int]:
    """The film's pictures as FFmpeg decodes them in their stream: their numbers by what is in their planes."""
    with av.open(str(path)) as film:
        return {planes(frame): number for number, frame in enumerate(film.decode(video=0))}


def planes(frame: av.VideoFrame) -> str:
    return hashlib.sha256(frame.to_ndarray().tobytes()).hexdigest()


def decoded(data: bytes) -> list[av.VideoFrame]:
    with av.open(io.BytesIO(data), "r") as file:
        return list(file.decode(video=0))


@pytest.mark.parametrize("name", FORMATS)
async def test_keyframes_are_stored_as_they_came(results: dict[str, Result], shows: dict[str, Show], name: str) -> None:
    result = results[name]
    assert result.request.status is IngestionStatus.COMPLETED, result.request
    assert result.request.progress.dropped == {}
    assert [frame.info.sequence for frame in result.frames] == list(range(SLOTS))
    film = next(iter(shows[name].films[0]))
    for frame, data in zip(result.frames, result.files, strict=True):
        info = frame.info
        assert info.format == FORMATS[name]
        (picture,) = decoded(data)
        assert (info.width, info.height) == (picture.width, picture.height)
        assert abs(frame.error) < LATE
        if info.format == "jpg":
            assert (info.content_type, info.integrity) == ("image/jpeg", "verified")
            continue
        assert (info.content_type, info.integrity) == ("video/mp4", "undecoded")
        assert info.storage_path.endswith(".mp4")
        assert pictures_of(film)[planes(picture)] == frame.number  # pixel for pixel


@pytest.mark.parametrize("name", FORMATS)
async def test_a_single_frame_is_a_keyframe_of_its_own_time(results: dict[str, Result], name: str) -> None:
    (frame,) = results[name].single
    assert frame.info.format == FORMATS[name]
    assert abs(frame.error) < LATE
