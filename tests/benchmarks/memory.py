"""Memory of a camera beyond its ring's packets, once its ring has been filling for half a minute."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from demo.camera import Camera
from tests.benchmarks.film import FPS, bench_film
from tests.benchmarks.harness import Running, goal, line, service


def memory(folder: Path, few: int, many: int) -> None:
    """From `few` cameras to `many`, at one frame a second (auto, GOP 25): resident memory less the rings' packets."""
    film = bench_film(folder, gop=FPS)

    def beyond(running: Running) -> float:
        time.sleep(30)
        found = []
        for _ in range(20):  # a picture being decoded, here and there, takes 6 MB for a moment
            time.sleep(0.51)
            found.append((running.rss - running.metric("ingestion_ring_bytes")) / 1e6)
        return median(found)

    with Camera(film.path, join="now") as camera, service(folder / "memory") as running:
        ids = [running.capture(f"few-{each}", camera.url, fps=1) for each in range(few)]
        running.until_live(ids)
        first = beyond(running)
        ids = [running.capture(f"more-{each}", camera.url, fps=1) for each in range(many - few)]
        running.until_live(ids)
        second = beyond(running)
    line(f"memory beyond the rings, {few} and {many} cameras", few_mb=first, many_mb=second)
    goal("memory a camera beyond the ring", (second - first) / (many - few), 8, " MB")
