"""What safety costs: uploads a second and CPU a captured frame, of this tree and of an earlier one, in turns.

`before` is a commit; its files are taken out of git and run with this environment's packages.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx

from demo.camera import Camera
from tests.benchmarks.film import FPS, bench_film
from tests.benchmarks.harness import Cpu, Running, goal, line, service
from tests.kits.service_support import jpeg

BEFORE = "0465342"  # the last commit without outbox, spool, idempotency and sweeper
_CLIENTS = 4


@contextmanager
def _tree(folder: Path, commit: str) -> Iterator[Path]:
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    yield folder


def _uploads(running: Running, seconds: float, pictures: list[bytes]) -> tuple[float, float]:
    """(Uploads a second, CPU ms of the service an upload): one new picture each."""
    stop = time.monotonic() + seconds

    def client(number: int) -> int:
        done = 0
        with httpx.Client(base_url=str(running.http.base_url), timeout=30) as http:
            while time.monotonic() < stop:
                picture = pictures[number].replace(b"\xff\xd9", b"") + f"{number}-{done}".encode() + b"\xff\xd9"
                files = [("files", ("car.jpg", picture, "image/jpeg"))]
                http.post("/api/v1/ingest/upload", data={"camera_id": f"up-{number}"}, files=files).raise_for_status()
                done += 1
        return done

    used, began = Cpu(running.process), time.monotonic()
    with ThreadPoolExecutor(_CLIENTS) as pool:
        count = sum(pool.map(client, range(_CLIENTS)))
    took = time.monotonic() - began
    return count / took, used.seconds() / count * 1000


def _captured(running: Running, url: str, cameras: int, seconds: float) -> float:
    """CPU ms of the service a frame at one frame a second (auto, GOP 25)."""
    ids = [running.capture(f"cam-{time.monotonic_ns()}-{each}", url, fps=1, sampling="auto") for each in range(cameras)]
    running.until_live(ids)
    time.sleep(5)
    before = sum(running.status(each)["progress"]["stored"] for each in ids)
    used = Cpu(running.process)
    time.sleep(seconds)
    cpu = used.seconds()
    frames = sum(running.status(each)["progress"]["stored"] for each in ids) - before
    running.cancel(ids)
    return float(cpu / frames * 1000)


def safety(folder: Path, before: str, rounds: int, seconds: float) -> None:
    """`rounds` of each tree in turns; medians, and how much dearer this one is."""
    film = bench_film(folder, gop=FPS)
    pictures = [jpeg((1280, 720)) for _ in range(_CLIENTS)]
    rates: dict[str, list[float]] = {"before": [], "now": []}
    costs: dict[str, list[float]] = {"before": [], "now": []}
    frames: dict[str, list[float]] = {"before": [], "now": []}
    with Camera(film.path, join="now") as camera, _tree(folder / "tree", before) as tree:
        for turn in range(rounds):
            for name, root in (("before", tree), ("now", None)):
                with service(folder / f"{name}-{turn}", root) as running:
                    _uploads(running, 2, pictures)  # warm
                    rate, cost = _uploads(running, seconds, pictures)
                    frame = _captured(running, camera.url, 4, seconds)
                rates[name].append(rate)
                costs[name].append(cost)
                frames[name].append(frame)
                line(f"{name}, round {turn + 1}", uploads_per_s=rate, cpu_ms_per_upload=cost, cpu_ms_per_frame=frame)
    goal("uploads a second, before / now", median(rates["before"]) / median(rates["now"]), 1.1)
    goal("CPU an upload, now / before", median(costs["now"]) / median(costs["before"]), 1.1)
    goal("CPU a captured frame, now / before", median(frames["now"]) / median(frames["before"]), 1.1)
