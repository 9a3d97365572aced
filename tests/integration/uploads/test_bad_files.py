"""Bad files through the whole check in its worker processes: each has its code, and the service does not notice.

`pytest -s` prints each file's code and time, the longest pause of the event loop, and the memory that was taken.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import psutil
import pytest

from config import Settings
from models.schemas import UploadIngestionRequest
from models.values import ReceivedFile
from services.storage_service.service import StorageService
from services.upload_handler.handler import UploadHandler
from tests.kits.bad_files import bad_files
from tests.kits.noted_workers import Workers, noted_workers  # noqa: F401
from tests.kits.pictures import GOOD, PHOTO, encoded, rich_exif
from utils.ids import new_id
from utils.metrics import WORKERS_REPLACED

ARRIVED = datetime(2026, 5, 4, 13, 30, tzinfo=UTC)
FORM = UploadIngestionRequest(camera_id="pit-1")
MEGABYTE = 1_048_576


class Store:
    def __init__(self) -> None:
        self.hashes: list[str] = []

    async def put_file(self, key: str, path: Path, size: int, content_type: str, sha256_hex: str) -> None:
        self.hashes.append(hashlib.sha256(path.read_bytes()).hexdigest())


class Watch:
    """The longest pause of the event loop (s), the most that it worked at once (s of CPU), and the most memory (bytes)
    of this process and of each worker."""

    def __init__(self, workers: Workers) -> None:
        self._all = workers
        self.lag = self.work = 0.0
        self.workers: dict[int, int] = {}
        self._before = self.grown = 0

    async def begin(self) -> None:
        """What came before is the test's own. As in a service, what is there already is no garbage to be looked for: of the
        heap that a hundred tests leave, one collection takes longer than `work` may be."""
        gc.collect()
        gc.freeze()
        await asyncio.sleep(0.01)  # `run` has noted it
        self.lag, self.work, self._before = 0.0, 0.0, psutil.Process().memory_info().rss

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            started, cpu = loop.time(), time.thread_time()
            await asyncio.sleep(0.001)
            self.lag = max(self.lag, loop.time() - started)
            self.work = max(self.work, time.thread_time() - cpu)

    def look(self) -> None:
        self.grown = max(self.grown, psutil.Process().memory_info().rss - self._before)
        for child in self._all:
            try:
                lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
            except OSError:
                continue
            peak = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
            self.workers[child.pid] = max(peak, self.workers.get(child.pid, 0))

    def cpu(self) -> float:
        """Seconds of CPU that the living workers have taken; one that ends takes its own away."""
        seconds = 0.0
        for worker in self._all:
            with suppress(psutil.Error):
                seconds += sum(worker.cpu_times()[:2])
        return seconds

    def __str__(self) -> str:
        peaks = ", ".join(f"{peak / MEGABYTE:.0f}" for peak in self.workers.values())
        lag = f"loop lag {self.lag * 1000:.0f} ms ({self.work * 1000:.0f} of work)"
        return f"{lag}, service +{self.grown / MEGABYTE:.0f} MB, workers' peaks {peaks} MB"


@pytest.fixture(scope="module")
async def store() -> Store:
    return Store()


@pytest.fixture(scope="module")
async def handler(store: Store) -> AsyncIterator[UploadHandler]:
    made = UploadHandler(Settings(_env_file=None), cast(StorageService, store))
    yield made
    await made.close()


@pytest.fixture
async def watch(workers: Workers) -> AsyncIterator[Watch]:
    made = Watch(workers)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    gc.unfreeze()


def received(folder: Path, index: int, name: str, data: bytes) -> ReceivedFile:
    path = folder / f"part{index}"
    path.write_bytes(data)
    return ReceivedFile(index, name, None, path, len(data), hashlib.sha256(data).hexdigest())


def _replaced() -> list[float]:
    return [WORKERS_REPLACED.labels(pool="images", reason=why)._value.get() for why in ("crashed", "killed", "timeout")]


async def test_each_bad_file_has_its_code_and_nobody_else_suffers(
    handler: UploadHandler, store: Store, watch: Watch, tmp_path: Path
) -> None:
    bad = await asyncio.to_thread(bad_files)
    files = await asyncio.to_thread(lambda: [received(tmp_path, i, item.name, item.data) for i, item in enumerate(bad)])
    good = received(tmp_path, 1000, "good.jpg", encoded("JPEG"))
    await handler.process(new_id(), FORM, [good], ARRIVED)
    await watch.begin()
    replaced = _replaced()
    wrong: list[str] = []
    codes: Counter[str] = Counter()
    for item, file in zip(bad, files, strict=True):
        started, cpu = time.perf_counter(), watch.cpu()
        # A good one beside it: stored, whatever the bad one does.
        result = await handler.process(new_id(), FORM, [file, good], ARRIVED)
        seconds, cpu = time.perf_counter() - started, watch.cpu() - cpu
        watch.look()
        code = result.rejected[0].code if result.rejected else "stored"
        codes[code] += 1
        print(f"{code:26} {seconds * 1000:6.0f} ms  {item.what} ({len(item.data)} bytes)")
        if code != item.code or [record.sequence for record in result.records] != [1000] or cpu > 10:
            wrong.append(f"{item.what}: {code} after {seconds:.1f} s ({cpu:.1f} of CPU), {item.code} wanted")
    print(f"{len(bad)} files: {dict(codes)}; {watch}")
    assert wrong == []
    assert len(bad) >= 80
    assert watch.work < 0.05  # the lag is also what the machine does beside
    assert watch.grown < 50 * MEGABYTE
    assert max(watch.workers.values()) < 250 * MEGABYTE
    assert _replaced() == replaced  # no decoder crashed on the way, or took too long


async def test_good_files_are_stored_unchanged(handler: UploadHandler, store: Store, tmp_path: Path) -> None:
    pages = [PHOTO.rotate(turn) for turn in (1, 2, 3)]
    more = [
        ("mpo", "jpg", encoded("MPO", save_all=True, append_images=pages)),
        ("animated png", "png", encoded("PNG", save_all=True, append_images=pages)),
        ("tiff of four pages", "tiff", encoded("TIFF", save_all=True, append_images=[PHOTO.rotate(9)])),
        ("exif", "jpg", encoded("JPEG", exif=rich_exif())),
        ("icc of 2 MB", "jpg", encoded("JPEG", icc_profile=bytes(2_000_000))),
        ("tiff with exif", "tif", encoded("TIFF", exif=rich_exif())),
        ("tiff of one strip", "tiff", encoded("TIFF", PHOTO, compression="tiff_lzw", strip_size=10**9)),
    ]
    whole = [(f"{name}.{fmt}", data) for name, fmt, data in [*GOOD, *more]]
    files = [received(tmp_path, index, name, data) for index, (name, data) in enumerate(whole)]
    store.hashes.clear()
    result = await handler.process(new_id(), FORM, files, ARRIVED)
    assert [item.filename for item in result.rejected] == []
    assert len(result.records) == len(whole) >= 30
    assert sorted(store.hashes) == sorted(file.sha256 for file in files)
