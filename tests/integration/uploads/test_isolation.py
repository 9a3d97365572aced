"""What a picture can do to the process that decodes it: the crash, the spin, the memory."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import zlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from PIL import Image

from config import Settings
from models.schemas import UploadIngestionRequest
from models.values import ReceivedFile
from services.storage_service.service import StorageService
from services.upload_handler import handler as handler_module
from services.upload_handler.check_call import CHECK, CheckedImage, arguments, image_of
from services.upload_handler.handler import UploadHandler
from services.upload_handler.memory import MARGIN, to_read
from tests.kits.noted_workers import Workers, noted_workers  # noqa: F401
from tests.kits.pictures import chunk, encoded, one_strip, png, run_length_bmp
from utils.exceptions import ImageTooLarge, InvalidImage
from utils.ids import new_id
from utils.metrics import MEMORY_RESERVED, WORKERS_REPLACED
from utils.process_pool import ProcessPool

ARRIVED = datetime(2026, 5, 4, 13, 30, tzinfo=UTC)
FORM = UploadIngestionRequest(camera_id="pit-1")
MEGABYTE = 1_048_576
_LOADED = 45 * MEGABYTE  # of a worker that has imported what it decodes with
NAMES = ["jpg", "png", "bmp", "tiff", "heic", "webp", "avif"]
Received = Callable[[str, bytes], ReceivedFile]


class Store:
    async def put_file(self, key: str, path: Path, size: int, content_type: str, sha256_hex: str) -> None:
        await asyncio.sleep(0)


@pytest.fixture
def received(tmp_path: Path) -> Received:
    count = iter(range(10_000))

    def make(name: str, data: bytes) -> ReceivedFile:
        index = next(count)
        path = tmp_path / f"part{index}"
        path.write_bytes(data)
        return ReceivedFile(index, name, None, path, len(data), hashlib.sha256(data).hexdigest())

    return make


async def made(**fields: Any) -> UploadHandler:
    settings = Settings(_env_file=None)
    settings.UPLOAD = settings.UPLOAD.model_copy(update=fields)
    return UploadHandler(settings, cast(StorageService, Store()))


@pytest.mark.parametrize("how", ["null", "abort", "spin"])
async def test_a_picture_that_crashes_its_decoder_is_refused_and_nothing_else_suffers(
    received: Received, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    handler = await made(DECODE_TIMEOUT=1.0)
    good = [received(f"{i}.jpg", encoded("JPEG", quality=50 + i)) for i in range(5)]
    bad = received("bad.jpg", encoded("JPEG"))
    reason = "timeout" if how == "spin" else "crashed"
    before = WORKERS_REPLACED.labels(pool="images", reason=reason)._value.get()

    def hostile(file: ReceivedFile, *rest: Any) -> list[Any]:
        return [how] if file is bad else arguments(file, *rest)

    run = handler._pool.run

    async def instead(function: str, *args: Any, **fields: Any) -> Any:
        if args == (how,):
            args = () if how == "spin" else args
            function = "tests.kits.worker_jobs:spin" if how == "spin" else "tests.kits.worker_jobs:end"
        return await run(function, *args, **fields)

    monkeypatch.setattr(handler_module, "arguments", hostile)
    monkeypatch.setattr(handler._pool, "run", instead)
    result = await handler.process(new_id(), FORM, [*good[:3], bad, *good[3:]], ARRIVED)
    assert [(item.filename, item.code, item.retryable) for item in result.rejected] == [("bad.jpg", "invalid_image", False)]
    assert len(result.records) == 5
    assert WORKERS_REPLACED.labels(pool="images", reason=reason)._value.get() == before + 1
    await handler.close()


async def test_a_worker_that_the_kernel_ends_is_not_the_files_fault(received: Received, workers: Workers) -> None:
    handler = await made(DECODE_PROCESSES=1)
    await handler.process(new_id(), FORM, [received("a.jpg", encoded("JPEG"))], ARRIVED)
    [worker] = workers.alive()
    large = received("b.tif", one_strip(4000, 3000, 4, 4, 8))
    running = asyncio.create_task(handler.process(new_id(), FORM, [large], ARRIVED))
    while not MEMORY_RESERVED.labels(pool="images")._value.get() and not running.done():
        await asyncio.sleep(0.001)
    os.kill(worker.pid, signal.SIGKILL)
    result = await running
    assert (len(result.records), result.rejected) == (1, [])
    await handler.close()


async def test_an_answer_that_is_none_of_ours_is_a_refusal() -> None:
    for answer in ({}, {"image": [1]}, {"image": None}, {"refused": ["internal_error", "x"]}, {"refused": 1}):
        with pytest.raises(InvalidImage):
            image_of(answer)


def _noise(mode: str, width: int = 1500, height: int = 1000) -> Image.Image:
    return Image.effect_noise((width, height), 90).convert(mode)


def _pictures() -> dict[str, tuple[str, bytes]]:
    grey, colour = _noise("L"), _noise("RGB")
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000), 9)) * 40
    rows = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(1500) for _ in range(1000))))
    runs = run_length_bmp(1020, 1000, (b"\xff\x01" * 4 + b"\0\0") * 1000 + b"\0\1")
    pages = [grey.rotate(180), colour]
    return {
        "jpeg": ("a.jpg", encoded("JPEG", colour)),
        "progressive jpeg": ("a.jpg", encoded("JPEG", colour, progressive=True, subsampling=0)),
        "progressive jpeg, 4:2:0": ("a.jpg", encoded("JPEG", colour, progressive=True, subsampling=2)),
        "cmyk jpeg, padded": ("a.jpg", encoded("JPEG", colour.convert("CMYK"))[:-2] + bytes(99) + b"\xff\xd9"),
        "narrow progressive jpeg": ("a.jpg", encoded("JPEG", _noise("RGB", 3, 60_000), progressive=True)),
        "wide jpeg": ("a.jpg", encoded("JPEG", _noise("RGB", 65_000, 40), subsampling=0)),
        "png": ("a.png", encoded("PNG", colour, compress_level=1)),
        "grey png": ("a.png", encoded("PNG", grey, compress_level=1)),
        "png of 16 bits": ("a.png", encoded("PNG", grey.convert("I;16"), compress_level=1)),
        "png with texts": ("a.png", png(1500, 1000, text, rows)),
        "animated png": ("a.png", encoded("PNG", colour, save_all=True, append_images=pages, compress_level=1)),
        "bmp": ("a.bmp", encoded("BMP", colour)),
        "grey bmp": ("a.bmp", encoded("BMP", grey)),
        "bmp of runs": ("a.bmp", runs),
        "tiff": ("a.tif", encoded("TIFF", colour)),
        "tiff, lzw in one strip": ("a.tif", encoded("TIFF", colour, compression="tiff_lzw", strip_size=10**9)),
        "tiff, jpeg in one strip": ("a.tif", encoded("TIFF", colour, compression="jpeg", strip_size=10**9)),
        "tiff, zstd": ("a.tif", encoded("TIFF", colour, compression="zstd", strip_size=10**9)),
        "tiff, rgba of 16 bits in one strip": ("a.tif", one_strip(1500, 1000, 8, 4, 16)),
        "webp": ("a.webp", encoded("WEBP", colour)),
        "animated webp": ("a.webp", encoded("WEBP", colour, save_all=True, append_images=pages, quality=9, method=0)),
        "avif": ("a.avif", encoded("AVIF", colour, speed=10, subsampling="4:4:4")),
        "tiff of one bit": ("a.tif", encoded("TIFF", _noise("1"), compression="group4")),
        "tiff of floats": ("a.tif", encoded("TIFF", grey.convert("F"), compression="tiff_deflate")),
        "tiff of pages": ("a.tif", encoded("TIFF", colour, save_all=True, append_images=pages, compression="tiff_lzw")),
    }


async def test_what_a_picture_needs_is_known_before_it_is_decoded(received: Received) -> None:
    """Each is decoded within what its headers ask for, without most of the margin; nor do they ask for far too much."""
    pool = ProcessPool("exact", 1, max_memory=2048 * MEGABYTE, allowance=0, preload=[CHECK.partition(":")[0]])
    await pool.run(CHECK, *arguments(received("a.jpg", encoded("JPEG")), NAMES, 10**8, MARGIN, 10**10), memory=MARGIN)
    pictures = await asyncio.to_thread(_pictures)
    too_much = []
    for what, (name, data) in pictures.items():
        file = received(name, data)
        reading = to_read(file.size)
        asked = await pool.run(CHECK, *arguments(file, NAMES, 10**8, reading, 10**10), memory=reading)
        need = asked.get("needs", reading)
        image = image_of(await pool.run(CHECK, *arguments(file, NAMES, 10**8, need, 10**10), memory=need - MARGIN * 3 // 4))
        assert isinstance(image, CheckedImage), what
        decoding = need - reading
        print(f"{what:40} {file.size / 1e6:6.1f} MB, decoding {decoding / image.width / image.height:5.1f} bytes a pixel")
        if decoding > 20 * image.width * image.height and decoding > 8 * MARGIN:
            too_much.append(what)
    assert too_much == []
    await pool.close()


async def test_one_strip_of_a_tiff_is_counted(received: Received) -> None:
    """Four channels of 16 bits in one strip take 8 bytes a pixel beside the picture's 4."""
    handler = await made(DECODE_MEMORY=256 * MEGABYTE)
    for width, stored in ((2000, True), (5000, False)):
        file = received("a.tif", one_strip(width, 3000, 8, 4, 16))
        result = await handler.process(new_id(), FORM, [file], ARRIVED)
        assert [item.code for item in result.rejected] == ([] if stored else ["image_too_large"])
    assert isinstance(result.first_error, ImageTooLarge)
    assert "UPLOAD__DECODE_MEMORY" in str(result.first_error)
    await handler.close()


async def test_all_uploads_together_stay_within_the_budget(received: Received, workers: Workers) -> None:
    """Sixteen uploads of a large picture each: they wait for room, and all are stored."""
    budget = 128 * MEGABYTE
    handler = await made(DECODE_PROCESSES=4, DECODE_MEMORY=budget)
    large = received("a.tif", one_strip(2000, 2000, 8, 4, 16))  # two at once would be too many
    small = received("small.jpg", encoded("JPEG"))
    running = [asyncio.create_task(handler.process(new_id(), FORM, [large, small], ARRIVED)) for _ in range(16)]
    most = reserved = 0
    while not all(task.done() for task in running):
        most = max(most, _resident(workers))
        reserved = max(reserved, int(MEMORY_RESERVED.labels(pool="images")._value.get()))
        await asyncio.sleep(0.005)
    results = [task.result() for task in running]
    assert [item.code for result in results for item in result.rejected] == []
    assert sum(len(result.records) for result in results) == 16 * 2
    print(f"most at once: {most / MEGABYTE:.0f} MB beside the processes themselves, of {budget / MEGABYTE:.0f}")
    assert most < budget
    assert 0 < reserved <= budget
    await handler.close()


def _resident(workers: Workers) -> int:
    """What the workers hold now beyond what each has loaded before its first picture."""
    total = 0
    for worker in workers:
        try:
            total += max(0, worker.memory_info().rss - _LOADED)
        except psutil.Error:
            continue
    return total


@pytest.fixture(autouse=True)
async def no_worker_is_left(workers: Workers) -> AsyncIterator[None]:
    yield
    assert workers.alive() == []
