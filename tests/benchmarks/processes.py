"""Two api processes beside one: uploads and status reads at once, and where the machine's time goes meanwhile.

On a small machine one process beside PostgreSQL, store and clients fills it. So each api process is also held to a fifth of
a core: that is as if cores were free, and shows whether something that both share holds the second one up.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import uvloop

from tests.benchmarks.clients import Side, get
from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.limited import limited, possible
from tests.benchmarks.parts import parts
from tests.benchmarks.upload import picture, uploads
from tests.conftest import Backends, Service
from tests.kits.service_support import jpeg

SECONDS = 5.0  # of a round
READERS = 8  # clients that ask for a status, beside 8 that upload
SHARE = 0.2  # of a core
PARTS = ("service", "checks", "postgres", "store", "clients")


@contextmanager
def started(backends: Backends, folder: Path, **settings: str) -> Iterator[Service]:
    folder.mkdir(parents=True)
    made = Service(backends.environment(folder / "data", **settings), folder / "service.log")
    made.forked = False
    made.start()
    try:
        yield made
    finally:
        made.stop()


class Shares:
    """CPU seconds since the last look, by part; a process that is gone takes its time with it."""

    def __init__(self, services: list[Service]) -> None:
        self._roots = [psutil.Process(each.process.pid) for each in services if each.process is not None]
        self._before = self._read()

    def _read(self) -> dict[str, float]:
        found = dict.fromkeys(PARTS, 0.0)
        ours = {each.pid: each for root in self._roots for each in (root, *root.children(recursive=True))}
        for each in ours.values():
            found["checks" if any("worker_process" in part for part in each.cmdline()) else "service"] += _seconds(each)
        for each in psutil.Process().children(recursive=True):
            if each.pid not in ours:
                part = {"postgres": "postgres", "weed": "store", "minio": "store"}.get(each.name())
                if part is not None:
                    found[part] += _seconds(each)
        found["clients"] = _seconds(psutil.Process())
        machine = psutil.cpu_times()
        total = sum(machine) - machine.guest - machine.guest_nice
        return {**found, "idle": machine.idle + machine.iowait, "stolen": machine.steal, "all": total}

    def cores(self, seconds: float) -> dict[str, float]:
        """Cores that each part had since this was made; `rest` is the kernel's and other programs'."""
        now = self._read()
        used = {name: (now[name] - self._before[name]) / seconds for name in now}
        everything = used.pop("all")
        return {**used, "rest": everything - sum(used.values())}


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
        return float(times.user + times.system)
    except psutil.Error:
        return 0.0


async def _load(address: tuple[str, int], data: bytes, request: bytes, seconds: float) -> tuple[float, float]:
    """Uploads and status reads a second."""
    reads = Side(address, psutil.Process(), [request])
    began = time.monotonic()
    done, _ = await asyncio.gather(uploads(address, data, seconds), reads.round(seconds, READERS))
    return done / (time.monotonic() - began), reads.rates[0]


def processes(bench: Bench) -> None:
    """The same load on a service of one process and on one of two, in turns. What adds up: the cores of all parts."""
    with (
        parts(bench.folder) as backends,
        started(backends, bench.folder / "one", ROLE="api") as one,
        started(backends, bench.folder / "two", ROLE="api", API__PROCESSES="2") as two,
    ):
        data = picture()
        with httpx.Client(base_url=one.url) as client:
            sent = client.post(
                "/api/v1/ingest/upload", data={"camera_id": "c"}, files=[("files", ("a.jpg", jpeg(), "image/jpeg"))]
            )
            request = get(f"/api/v1/ingest/status/{sent.raise_for_status().json()['request_id']}")
        sides = {"one": one, "two": two}
        _compare(bench, "the machine's cores", sides, data, request, lambda _: nullcontext())
        if possible():
            _compare(bench, f"{SHARE} of a core each", sides, data, request, lambda side: limited(_answering(side), SHARE))
        else:
            print("Not root, or no control groups: whether two processes do more where cores are free is not shown.")


def _answering(service: Service) -> list[int]:
    """The processes of a service that answer; not those which check pictures."""
    assert service.process is not None
    root = psutil.Process(service.process.pid)
    return [each.pid for each in (root, *root.children(recursive=True)) if "worker_process" not in " ".join(each.cmdline())]


def _compare(
    bench: Bench, where: str, sides: dict[str, Service], data: bytes, request: bytes,
    held: Callable[[Service], AbstractContextManager[None]],
) -> None:  # fmt: skip
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    cores: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(bench.rounds + 1):  # the first does not count
        for name in sorted(sides, reverse=number % 2 == 0):
            url = urlsplit(sides[name].url)
            assert url.hostname is not None
            assert url.port is not None
            with held(sides[name]) if number else nullcontext():
                shares, began = Shares([sides[name]]), time.monotonic()
                found = uvloop.run(_load((url.hostname, url.port), data, request, SECONDS if number else 1.0))
                used = shares.cores(time.monotonic() - began)
            if number:
                rates[name].append(found)
                cores[name].append(used)
    for index, what in enumerate(("uploads of 178 KB", "status reads")):
        figures = [[found[index] for found in rates[name]] for name in ("two", "one")]
        bench.compare(f"{what}, two processes / one, {where}", "/s", figures[0], figures[1], Goal(">=", 1.7))
    for name, rounds in cores.items():
        each = {part: statistics.median(used[part] for used in rounds) for part in rounds[0]}
        busy = psutil.cpu_count() or 1
        bench.compare(f"cores in use, {name}, {where}", "cores", [busy - each["idle"]], [], Goal(), **each)
