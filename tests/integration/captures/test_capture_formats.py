"""What cameras send: every format of pictures comes out as the camera's own pictures, rightly timed, or not at all.

All captures run side by side on one camera (`results`), continuous and single; each stored picture is compared with
the film's own of that number. What gets lost on the way: test_capture_losses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import av
import pytest
import pytest_asyncio

from demo.camera import Camera
from demo.rtp import parse_jpeg
from demo.show import Show
from models.schemas import IngestionResponse
from models.values import IngestionStatus
from services.storage_service.service import StorageService
from tests.conftest import Backends, unique
from tests.kits.capture_kit import FRAME, PICTURES, SECONDS, SIZE, Kit, Stored, open_kit
from tests.kits.format_films import BLOCK, MEAN, SHOWS, WIDE, difference, truth

pytestmark = pytest.mark.alone

UNSUPPORTED = ["vp8", "vp8-first", "mpeg4-and-sound"]
CAPTURED = [(name, "tcp") for name in SHOWS if name not in UNSUPPORTED]
CAPTURED += [(name, "udp") for name in ("plain", "hevc-b", "switch", "sound-before", "two", "mjpeg")]


@pytest.fixture(scope="module", params=["opencv", "native"])
def reader(request: pytest.FixtureRequest) -> str:
    """Both: what a format's pictures become is a matter of the reader."""
    return str(request.param)


@dataclass
class Result:
    request: IngestionResponse
    frames: list[Stored]
    single: IngestionResponse
    one: list[Stored]


@pytest.fixture(scope="module")
def shows(film_folder: Path) -> dict[str, Show]:
    return {name: make(film_folder) for name, make in SHOWS.items()}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kit(
    backends: Backends,
    storage: StorageService,
    reader: str,
    tmp_path_factory: pytest.TempPathFactory,
    shows: dict[str, Show],
) -> AsyncIterator[Kit]:
    """After the films are made, which keeps the event loop of the services waiting for seconds."""
    async with open_kit(
        backends, storage, tmp_path_factory.mktemp("data"),
        CAPTURE_TIMEOUT=40, OPEN_TIMEOUT=8, READ_TIMEOUT=5, STORE_RETRY=30,
        MAX_CONCURRENT_STREAMS=100, MAX_CONCURRENT_CAPTURES=100, READER=reader,
    ) as made:  # fmt: skip
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def results(kit: Kit, shows: dict[str, Show]) -> dict[tuple[str, str], Result]:
    made: dict[tuple[str, str], Result] = {}

    gate = asyncio.Semaphore(12)  # at once: more would need more than two cores

    async def run(name: str, transport: str) -> None:
        camera_id = unique(name)
        seconds = SECONDS if "switch" in name else 2.0  # a whole lap, to see both sizes
        async with gate:
            single = await kit.submit(camera.url_of(name), camera_id, transport=transport)
            request = await kit.submit(
                camera.url_of(name), camera_id, transport=transport,
                capture_mode="continuous", sampling="exact", fps=5.0, capture_duration=seconds,
            )  # fmt: skip
            await asyncio.sleep(seconds)  # who asks all the time keeps those waiting who store
            found, one = await kit.final(request, 60), await kit.final(single, 60)
        made[name, transport] = Result(found, await kit.frames(request), one, await kit.frames(single))

    # "burst": opens, which OpenCV does one by one, are short.
    with Camera(shows, join="burst", report_every=0) as camera:
        async with asyncio.TaskGroup() as group:
            for name, transport in CAPTURED:
                group.create_task(run(name, transport))
    return made


@pytest.mark.parametrize(("name", "transport"), CAPTURED)
async def test_every_slot_is_stored_with_the_cameras_own_picture(
    results: dict[tuple[str, str], Result], shows: dict[str, Show], name: str, transport: str
) -> None:
    result = results[name, transport]
    due = 20 if "switch" in name else 10
    for request, frames, slots in ((result.single, result.one, 1), (result.request, result.frames, due)):
        assert request.status is IngestionStatus.COMPLETED, request
        assert request.progress.dropped == {}
        assert request.progress.reconnects == 0
        assert [frame.info.sequence for frame in frames] == list(range(slots))
    pictures = truth(shows[name])
    worst = (0.0, 0.0)
    for frame in [*result.one, *result.frames]:
        picture = pictures[frame.number]
        mean, block = difference(frame.image, picture)
        worst = max(worst[0], mean), max(worst[1], block)
        assert (frame.info.width, frame.info.height) == picture.shape[1::-1]
    errors = [frame.error for frame in result.frames]
    late = f"{median(errors) * 1000:.1f} ms late, worst {max(map(abs, errors)) * 1000:.1f}"
    print(f"\n{name} by {transport}: {late}; differs by {worst[0]:.1f}, worst block {worst[1]:.1f}")
    assert worst[0] <= MEAN
    assert worst[1] <= BLOCK
    assert {(b.number - a.number) % PICTURES for a, b in pairwise(result.frames)} <= {4, 5, 6}
    assert max(map(abs, errors)) <= FRAME / 2 + 0.005


async def test_both_sizes_of_a_switch_are_seen(results: dict[tuple[str, str], Result]) -> None:
    for key in (("switch", "tcp"), ("hevc-switch", "tcp"), ("switch", "udp")):
        sizes = {(frame.info.width, frame.info.height) for frame in results[key].frames}
        assert sizes == {SIZE, WIDE}, key


async def test_motion_jpeg_is_stored_as_received(
    results: dict[tuple[str, str], Result], shows: dict[str, Show], kit: Kit
) -> None:
    """RTP carries tables, size and scan, and the receiver writes the headers anew: those are FFmpeg's."""
    with av.open(str(shows["mjpeg"].films[0][0])) as whole:
        sent = [parse_jpeg(bytes(packet)) for packet in whole.demux(video=0) if packet.size]
    for key in (("mjpeg", "tcp"), ("mjpeg-sound", "tcp"), ("mjpeg", "udp")):
        for frame in results[key].frames:
            assert parse_jpeg(await kit.storage.get(frame.info.storage_path)) == sent[frame.number], key
        source = results[key].request.source
        assert source is not None
        assert (source.codec, source.width, source.height) == ("mjpeg", SIZE[0], 184)


@pytest.mark.parametrize("name", UNSUPPORTED)
async def test_what_cannot_be_decoded_is_unsupported(kit: Kit, shows: dict[str, Show], name: str) -> None:
    with Camera(shows[name]) as camera:
        for mode in ("single_frame", "continuous"):
            fields: dict[str, Any] = {} if mode == "single_frame" else {"capture_duration": 1.0}
            request = await kit.final(await kit.submit(camera.url, capture_mode=mode, **fields), 15)
            if name == "vp8-first":  # takes the second video, which can be decoded
                assert request.status is IngestionStatus.COMPLETED
                continue
            assert request.status is IngestionStatus.FAILED
            assert request.error is not None
            assert (request.error.code, request.error.retryable) == ("unsupported_codec", False)
            assert request.progress.stored == 0
