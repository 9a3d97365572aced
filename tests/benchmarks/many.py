"""Many cameras asked for at once: how soon all are live, what is dropped, how late frames are stored."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import psutil

from demo.camera import Camera
from tests.benchmarks.film import FILMS, FPS, bench_film
from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.harness import Cpu, Running, at, service, share

CAMERAS = 40
_SECONDS = 60.0
_LIVE = {"native": 1.5, "opencv": 4.0}  # goals, seconds


def _ask(running: Running, url: str, **more: float) -> tuple[list[str], float]:
    """Requests for captures at one frame a second (auto, GOP 25), and the seconds until each has its first picture."""
    asked = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        ids = list(
            pool.map(lambda each: running.capture(f"many-{each}", url, fps=1, sampling="auto", **more), range(CAMERAS))
        )
    running.until_live(ids)
    return ids, time.monotonic() - asked


def start(bench: Bench) -> None:
    """By each reader: from the first request to the first picture of the last camera."""
    film = bench_film(FILMS, gop=FPS)
    for reader, bound in _LIVE.items():
        made = service(bench.folder / f"start-{reader}", RTSP__READER=reader, RTSP__LINGER=0)
        with Camera(film.path, join="now") as camera, made as running:

            def once(running: Running = running, url: str = camera.url) -> float:
                ids, live = _ask(running, url)
                running.cancel(ids)
                running.until_ended(ids)
                return live

            (found,) = bench.turns(once)
        bench.compare(f"{reader}: {CAMERAS} asked for at once, the last is live after", "s", found, [], Goal("<=", bound))


def cameras(bench: Bench) -> None:
    """So many by the native reader for a minute, camera, store and database on the same cores."""
    film = bench_film(FILMS, gop=FPS)
    made = service(bench.folder / "many", RTSP__READER="native")
    with Camera(film.path, join="now") as camera, made as running:
        assert camera.pid is not None
        ids, live = _ask(running, camera.url, capture_duration=_SECONDS)
        used, source = Cpu(*running.processes()), Cpu(psutil.Process(camera.pid))
        time.sleep(max(0.0, _SECONDS - live - 2))
        cpu, served = used.per_second(), source.per_second()
        running.until_ended(ids)
        progress = [running.status(each)["progress"] for each in ids]
        delays = [at(frame["stored_at"]) - at(frame["timestamp"]) for each in ids for frame in running.frames(each)]
        late = running.rss / 1e6
    dropped = sum(sum(each["dropped"].values()) for each in progress)
    bench.compare(
        f"{CAMERAS} cameras for {_SECONDS:.0f} s, native: frames dropped", "", [dropped], [], Goal("<=", 0),
        stored=len(delays), cpu_ms_per_camera=cpu / CAMERAS, camera_cpu_ms=served, rss_mb=late,
    )  # fmt: skip
    p99 = share(delays, 0.99)
    bench.compare("capture to stored, p99", "s", [p99], [], Goal("<=", 1.5), p50_s=share(delays, 0.5))
