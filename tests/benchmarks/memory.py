"""Memory of a camera beyond its ring's packets, once its ring has been filling for half a minute."""

from __future__ import annotations

import time
from statistics import median

from demo.camera import Camera
from tests.benchmarks.film import FPS, bench_film
from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.harness import Running, service

_FEW, _MANY = 2, 10


def memory(bench: Bench) -> None:
    """From few cameras to many, at one frame a second (auto, GOP 25): resident memory less the rings' packets."""
    film = bench_film(bench.folder, gop=FPS)

    def beyond(running: Running) -> float:
        time.sleep(30)
        found = []
        for _ in range(20):  # a picture being decoded, here and there, takes 6 MB for a moment
            time.sleep(0.51)
            found.append((running.rss - running.metric("ingestion_ring_bytes")) / 1e6)
        return median(found)

    with Camera(film.path, join="now") as camera, service(bench.folder / "memory") as running:
        ids = [running.capture(f"few-{each}", camera.url, fps=1) for each in range(_FEW)]
        running.until_live(ids)
        first = beyond(running)
        ids = [running.capture(f"more-{each}", camera.url, fps=1) for each in range(_MANY - _FEW)]
        running.until_live(ids)
        second = beyond(running)
    each = (second - first) / (_MANY - _FEW)
    bench.compare("memory a camera beyond the ring", "MB", [each], [], Goal("<=", 8), few=first, many=second)
