"""Many cameras asked for at once: how soon all are live, what is dropped, how late frames are stored."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from demo.camera import Camera
from tests.benchmarks.film import FPS, bench_film
from tests.benchmarks.harness import Cpu, at, goal, line, service, share


def many(folder: Path, cameras: int, seconds: float, reader: str) -> None:
    """`cameras` captures at one frame a second (auto, GOP 25) for `seconds`."""
    film = bench_film(folder, gop=FPS)
    with Camera(film.path, join="now") as camera, service(folder / f"many-{reader}", RTSP__READER=reader) as running:
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
    line(
        f"trackshift, {cameras} cameras, {seconds:.0f} s, {reader}", live_s=live, stored=len(delays), dropped=dropped,
        p50_s=share(delays, 0.5), p99_s=share(delays, 0.99), cpu_ms_per_camera=cpu / cameras, camera_cpu_ms=served,
        rss_mb=late,
    )  # fmt: skip
    goal("frames dropped", dropped, 0)
    goal("capture to stored p99", share(delays, 0.99), 1.5, " s")
    goal("asked for at once, the last is live after", live, 6, " s")
