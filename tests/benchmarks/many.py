"""Many cameras asked for at once: how soon all are live, what is dropped, how late frames are stored."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import psutil

from demo.camera import Camera
from tests.benchmarks.film import FPS, bench_film
from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.harness import Cpu, at, service, share

_CAMERAS = 40
_SECONDS = 60.0
_LIVE = {"native": 1.5, "opencv": 4.0}  # goals, seconds


def many(bench: Bench) -> None:
    """Captures at one frame a second (auto, GOP 25), by each reader."""
    for reader in _LIVE:
        _by(bench, _CAMERAS, _SECONDS, reader)


def _by(bench: Bench, cameras: int, seconds: float, reader: str) -> None:
    film = bench_film(bench.folder, gop=FPS)
    made = service(bench.folder / f"many-{reader}", RTSP__READER=reader)
    with Camera(film.path, join="now") as camera, made as running:
        assert camera.pid is not None
        asked = time.monotonic()
        with ThreadPoolExecutor(16) as pool:
            wanted = {"fps": 1, "sampling": "auto", "capture_duration": seconds}
            ids = list(pool.map(lambda each: running.capture(f"many-{each}", camera.url, **wanted), range(cameras)))
        running.until_live(ids)
        live = time.monotonic() - asked
        used, source = Cpu(running.process), Cpu(psutil.Process(camera.pid))
        time.sleep(max(0.0, seconds - live - 2))
        cpu, served = used.per_second(), source.per_second()
        running.until_ended(ids)
        progress = [running.status(each)["progress"] for each in ids]
        delays = [at(frame["stored_at"]) - at(frame["timestamp"]) for each in ids for frame in running.frames(each)]
        late = running.rss / 1e6
    dropped = sum(sum(each["dropped"].values()) for each in progress)
    bench.compare(
        f"{cameras} cameras, {reader}: frames dropped", "", [dropped], [], Goal("<=", 0), stored=len(delays),
        cpu_ms_per_camera=cpu / cameras, camera_cpu_ms=served, rss_mb=late,
    )  # fmt: skip
    p99 = share(delays, 0.99)
    bench.compare(f"{reader}: capture to stored, p99", "s", [p99], [], Goal("<=", 1.5), p50_s=share(delays, 0.5))
    bench.compare(f"{reader}: asked for at once, the last is live after", "s", [live], [], Goal("<=", _LIVE[reader]))
