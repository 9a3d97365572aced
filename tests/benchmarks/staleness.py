"""How old the stored pictures are after a long capture: their numbers against the source's timeline."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import httpx
import numpy as np

from demo.camera import Camera
from demo.frame_number import read_frame_number
from demo.sources import capture_time
from tests.benchmarks.film import FPS, bench_film
from tests.benchmarks.harness import at, goal, line, service, share


def staleness(folder: Path, seconds: float, sampling: str) -> None:
    """One frame a second for `seconds`: by how much the picture in slot k is older than the slot's time.

    The pipeline's own delay is what the first half minute shows; a reader that falls behind shows a growing one.
    """
    film = bench_film(folder, gop=FPS)
    with Camera(film.path, join="burst") as camera, service(folder / f"stale-{sampling}") as running:
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
    line(
        f"trackshift {sampling}, {seconds:.0f} s", frames=len(ages), dropped=sum(found["progress"]["dropped"].values()),
        first_p50_ms=share(early, 0.5) * 1000, last_p50_ms=share(late, 0.5) * 1000, last_p99_ms=share(late, 0.99) * 1000,
        worst_ms=max(ages) * 1000,
    )  # fmt: skip
    goal("staleness p99 beyond the first's p50", share(late, 0.99) - share(early, 0.5), 0.1, " s")
