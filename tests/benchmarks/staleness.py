"""How old the stored pictures are after a long capture: their numbers against the source's timeline."""

from __future__ import annotations

import time

import cv2
import httpx
import numpy as np

from demo.camera import Camera
from demo.frame_number import read_frame_number
from demo.sources import capture_time
from tests.benchmarks.film import FPS, bench_film
from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.harness import at, service, share

_SECONDS = 120.0


def staleness(bench: Bench) -> None:
    """One frame a second for two minutes: by how much the picture in slot k is older than the slot's time.

    The pipeline's own delay is what the first half minute shows; a reader that falls behind shows a growing one.
    """
    for sampling in ("auto", "exact"):
        _by(bench, _SECONDS, sampling)


def _by(bench: Bench, seconds: float, sampling: str) -> None:
    film = bench_film(bench.folder, gop=FPS)
    with Camera(film.path, join="burst") as camera, service(bench.folder / f"stale-{sampling}") as running:
        request = running.capture("stale", camera.url, fps=1, sampling=sampling, capture_duration=seconds)
        running.until_live([request])
        while running.status(request)["status"] == "in_progress":
            time.sleep(1)
        found = running.status(request)
        start = at(found["grid_start"])
        ages = []
        for frame in running.frames(request):
            data = httpx.get(frame["storage_url"]).raise_for_status().content
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            number = read_frame_number(image) if image is not None else None
            assert number is not None
            due = start + frame["sequence"]
            ages.append(due - capture_time(number, FPS, film.pictures, due))
    early, late = ages[:30], ages[-60:]
    beyond = share(late, 0.99) - share(early, 0.5)
    bench.compare(
        f"{sampling}: p99 of the last minute beyond the first's p50", "s", [beyond], [], Goal("<=", 0.1), frames=len(ages),
        dropped=sum(found["progress"]["dropped"].values()), first_p50_ms=share(early, 0.5) * 1000,
        last_p50_ms=share(late, 0.5) * 1000, last_p99_ms=share(late, 0.99) * 1000, worst_ms=max(ages) * 1000,
    )  # fmt: skip
