"""What cameras send: every format of pictures comes out as the camera's own pictures, rightly timed, or not at all.

All captures run side by side on one camera (`results`), continuous and single; each stored picture is compared with
the film's own of that number.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import av
import cv2
import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from models.schemas import FrameInfo, IngestionResponse
from models.values import FrameFilter, IngestionStatus
from services.storage_service import StorageService
from tests.conftest import Backends
from tests.integration.capture_kit import FPS, FRAME, PICTURES, SECONDS, SIZE, Kit, Stored, open_kit
from utils.demo.camera import Camera
from utils.demo.film import make_film, make_sound, read_frame_number
from utils.demo.rtp import parse_jpeg
from utils.demo.show import Faults, Show

pytestmark = pytest.mark.alone

MEAN = 6.0  # of 255: JPEG of a small, busy picture
BLOCK = 24.0  # of 255: the worst 16 x 16 pixels' mean
WIDE = (480, 272)
Image = NDArray[np.uint8]


def film(folder: Path, **fields: Any) -> Path:
    size = {"width": SIZE[0], "height": SIZE[1]}
    return make_film(folder, **{**size, "fps": FPS, "seconds": SECONDS, "bitrate": 400_000, **fields})


SHOWS: dict[str, Callable[[Path], Show]] = {
    "plain": lambda f: Show([film(f)]),
    "hevc": lambda f: Show([film(f, codec="hevc")]),
    "b": lambda f: Show([film(f, bframes=3)]),
    "hevc-b": lambda f: Show([film(f, codec="hevc", bframes=3)]),
    "sets-in-sdp": lambda f: Show([film(f)], sets="sdp"),
    "sets-in-band": lambda f: Show([film(f)], sets="band"),
    "hevc-sets-in-sdp": lambda f: Show([film(f, codec="hevc")], sets="sdp"),
    "hevc-sets-in-band": lambda f: Show([film(f, codec="hevc")], sets="band"),
    "switch": lambda f: Show([[film(f, seconds=2.0), wide(f)]]),
    "hevc-switch": lambda f: Show([[film(f, seconds=2.0, codec="hevc"), wide(f, codec="hevc")]]),
    "open-gop": lambda f: Show([film(f, bframes=3, open_gop=True)]),
    "hevc-open-gop": lambda f: Show([film(f, codec="hevc", bframes=3, open_gop=True)]),
    "intra-refresh": lambda f: Show([film(f, intra_refresh=True)]),
    "hevc-intra-refresh": lambda f: Show([film(f, codec="hevc", intra_refresh=True)]),
    "interlaced": lambda f: Show([film(f, interlaced=True)]),
    "interlaced-b": lambda f: Show([film(f, interlaced=True, bframes=2)]),
    "slices": lambda f: Show([film(f, slices=4)]),
    "sound-after": lambda f: Show([film(f), make_sound(f)]),
    "sound-before": lambda f: Show([make_sound(f), film(f, bframes=3)]),
    "hevc-sound-before": lambda f: Show([make_sound(f, codec="pcmu"), film(f, codec="hevc")]),
    "two": lambda f: Show([film(f), wide(f, first=1000)]),
    "two-codecs": lambda f: Show([film(f, codec="hevc"), wide(f, first=1000)]),
    "mjpeg": lambda f: Show([film(f, codec="mjpeg", height=184)]),
    "mjpeg-sound": lambda f: Show([make_sound(f, codec="pcma"), film(f, codec="mjpeg", height=184)]),
    "vp8": lambda f: Show([film(f)], codec="vp8"),
    "vp8-first": lambda f: Show([film(f), film(f, seed=2)], codec="vp8"),
    "mpeg4-and-sound": lambda f: Show([make_sound(f), film(f)], codec="mp4v-es"),
}
UNSUPPORTED = ["vp8", "vp8-first", "mpeg4-and-sound"]
CAPTURED = [(name, "tcp") for name in SHOWS if name not in UNSUPPORTED]
CAPTURED += [(name, "udp") for name in ("plain", "hevc-b", "switch", "sound-before", "two", "mjpeg")]


def wide(folder: Path, **fields: Any) -> Path:
    """The second half of a film, with larger pictures."""
    return film(folder, **{"width": WIDE[0], "height": WIDE[1], "seconds": 2.0, "first": PICTURES // 2, "seed": 2, **fields})


@dataclass
class Result:
    request: IngestionResponse
    frames: list[Stored]
    single: IngestionResponse
    one: list[Stored]


@pytest.fixture(scope="module")
def shows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Show]:
    folder = tmp_path_factory.mktemp("films")
    return {name: make(folder) for name, make in SHOWS.items()}


def truth(show: Show) -> dict[int, Image]:
    """The pictures of a show's first film by number, as FFmpeg decodes the file."""
    made: dict[int, Image] = {}
    for path in next(films for films in show.films if "sound" not in films[0].name):
        with av.open(str(path)) as whole:
            for frame in whole.decode(video=0):
                image = frame.to_ndarray(format="bgr24").astype(np.uint8, copy=False)
                number = read_frame_number(image)
                assert number is not None
                made[number] = image
    return made


def difference(image: Image, other: Image) -> tuple[float, float]:
    """Mean absolute difference of two pictures (of 255): of all, and of the worst block of 16 x 16 pixels."""
    assert image.shape == other.shape
    apart = cv2.absdiff(image, other).mean(axis=2)
    height, width = apart.shape[0] // 16 * 16, apart.shape[1] // 16 * 16
    blocks = apart[:height, :width].reshape(height // 16, 16, width // 16, 16).mean(axis=(1, 3))
    return float(apart.mean()), float(blocks.max())


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kit(
    backends: Backends, storage: StorageService, tmp_path_factory: pytest.TempPathFactory, shows: dict[str, Show]
) -> AsyncIterator[Kit]:
    """After the films are made, which keeps the event loop of the services waiting for seconds."""
    async with open_kit(
        backends, storage, tmp_path_factory.mktemp("data"),
        CAPTURE_TIMEOUT=40, OPEN_TIMEOUT=8, READ_TIMEOUT=5, STORE_RETRY=30,
        MAX_CONCURRENT_STREAMS=100, MAX_CONCURRENT_CAPTURES=100,
    ) as made:  # fmt: skip
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def results(kit: Kit, shows: dict[str, Show]) -> dict[tuple[str, str], Result]:
    made: dict[tuple[str, str], Result] = {}

    gate = asyncio.Semaphore(12)  # at once: more would need more than two cores

    async def run(name: str, transport: str) -> None:
        camera_id = f"{name}-{transport}"
        seconds = SECONDS if "switch" in name else 3.0  # a whole lap, to see both sizes
        async with gate:
            single = await kit.submit(camera.url_of(name), camera_id, transport=transport)
            request = await kit.submit(
                camera.url_of(name), camera_id, transport=transport,
                capture_mode="continuous", sampling="exact", fps=5.0, capture_duration=seconds,
            )  # fmt: skip
            found, one = await kit.final(request, 60), await kit.final(single, 60)
        made[name, transport] = Result(found, await kit.frames(request), one, await kit.frames(single))

    with Camera(shows, join="burst") as camera:  # opens, which OpenCV does one by one, are short
        async with asyncio.TaskGroup() as group:
            for name, transport in CAPTURED:
                group.create_task(run(name, transport))
    return made


@pytest.mark.parametrize(("name", "transport"), CAPTURED)
async def test_every_slot_is_stored_with_the_cameras_own_picture(
    results: dict[tuple[str, str], Result], shows: dict[str, Show], name: str, transport: str
) -> None:
    result = results[name, transport]
    due = 20 if "switch" in name else 15
    for request, frames, slots in ((result.single, result.one, 1), (result.request, result.frames, due)):
        assert request.status is IngestionStatus.COMPLETED, request
        assert request.progress.dropped == {}
        assert request.progress.reconnects == 0
        assert [frame.info.sequence for frame in frames] == list(range(slots))
    pictures = truth(shows[name])
    for frame in [*result.one, *result.frames]:
        mean, block = difference(frame.image, pictures[frame.number])
        assert mean <= MEAN, (frame.number, mean)
        assert block <= BLOCK, (frame.number, block)
        assert (frame.info.width, frame.info.height) == pictures[frame.number].shape[1::-1]
    assert {(b.number - a.number) % PICTURES for a, b in pairwise(result.frames)} == {5}
    errors = [frame.error for frame in result.frames]
    print(f"\n{name} by {transport}: {median(errors) * 1000:.1f} ms, worst {max(map(abs, errors)) * 1000:.1f}")
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
            request = await kit.final(await kit.submit(camera.url, capture_mode=mode), 5)
            assert request.status is IngestionStatus.FAILED
            assert request.error is not None
            assert (request.error.code, request.error.retryable) == ("unsupported_codec", False)
            assert request.progress.stored == 0


# Losses: name, the share of packets lost, transport, bytes of a packet.
LOSSES = [
    ("plain", 0.3, "udp", 1400), ("hevc", 0.3, "udp", 1400), ("mjpeg", 0.3, "udp", 1400),
    ("plain", 0.02, "udp", 300), ("b", 0.02, "udp", 300), ("open-gop", 0.02, "tcp", 300),
    ("interlaced", 0.02, "udp", 300), ("slices", 0.02, "tcp", 300), ("intra-refresh", 0.02, "udp", 300),
    ("hevc-b", 0.02, "udp", 300), ("hevc", 0.02, "tcp", 300),
]  # fmt: skip
CLEAN, LOSSY = 2.0, 4.0  # seconds of the capture before losses begin, and with them
RATE = 12.5


@dataclass
class Lossy:
    request: IngestionResponse
    frames: list[tuple[FrameInfo, Image]]
    lossy: tuple[float, float]  # when packets got lost, seconds since the epoch


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def losses(kit: Kit, shows: dict[str, Show]) -> dict[str, Lossy]:
    """Captures of cameras that lose packets for some seconds, side by side."""
    made: dict[str, Lossy] = {}

    async def run(name: str, loss: float, transport: str) -> None:
        key = f"{name}-{loss}"
        request = await kit.submit(
            camera.url_of(key), f"lossy-{key}", transport=transport,
            capture_mode="continuous", sampling="exact", fps=RATE, capture_duration=CLEAN + LOSSY + 3.0,
        )  # fmt: skip
        await kit.until(request, lambda now: now.progress.stored >= CLEAN * RATE, 30)
        began = time.time()
        camera.fault(Faults(loss=loss), key)
        await asyncio.sleep(LOSSY)
        camera.fault(Faults(), key)
        ended = time.time()
        found = await kit.final(request, 30)
        assert time.time() - ended < 15
        infos = (await kit.services.queries.list_frames(FrameFilter(request_id=request), 200, None)).items
        images = [await kit.storage.get(info.storage_path) for info in infos]
        decoded = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in images]
        frames = [(info, image.astype(np.uint8)) for info, image in zip(infos, decoded, strict=True) if image is not None]
        assert len(frames) == len(infos)
        made[key] = Lossy(found, sorted(frames, key=lambda frame: frame[0].sequence), (began, ended))

    films = {f"{name}-{loss}": replace(shows[name], packet_bytes=size) for name, loss, _, size in LOSSES}
    with Camera(films, join="burst") as camera:
        async with asyncio.TaskGroup() as group:
            for name, loss, transport, _ in LOSSES:
                group.create_task(run(name, loss, transport))
    return made


@pytest.mark.parametrize(("name", "loss", "transport"), [each[:3] for each in LOSSES])
async def test_lost_packets_never_store_a_damaged_picture(
    losses: dict[str, Lossy], shows: dict[str, Show], name: str, loss: float, transport: str
) -> None:
    result = losses[f"{name}-{loss}"]
    request, (began, ended) = result.request, result.lossy
    assert request.status is IngestionStatus.COMPLETED, request
    assert request.progress.reconnects == 0
    pictures = truth(shows[name])
    silent = name.startswith("hevc") and transport == "udp"
    uncertain = 0
    for info, image in result.frames:
        number = read_frame_number(image)
        if silent:
            assert info.meta.get("integrity") == "unknown"
            good = number is not None and difference(image, pictures[number]) <= (MEAN, BLOCK)
            uncertain += not good
            continue
        assert "integrity" not in info.meta
        assert number is not None, f"slot {info.sequence}"
        mean, block = difference(image, pictures[number])
        assert mean <= MEAN, (info.sequence, number, mean)
        assert block <= BLOCK, (info.sequence, number, block)
    slots = [info.sequence for info, _ in result.frames]
    assert request.grid_start is not None
    start = request.grid_start.timestamp()
    missing = sorted(set(range(math.ceil((CLEAN + LOSSY + 3.0) * RATE))) - set(slots))
    dropped = request.progress.dropped
    print(f"\n{name} {loss} {transport}: stored {len(slots)}, of them damaged {uncertain}, dropped {dropped}")
    assert set(dropped) <= {"decode_failed", "no_picture"}
    assert all(began - 0.1 < start + slot / RATE < ended + 1.2 for slot in missing)  # until the next whole keyframe
    if loss > 0.1:
        assert len(missing) > 0.8 * LOSSY * RATE
