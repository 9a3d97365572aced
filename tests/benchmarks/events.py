"""CPU of an event_driven camera before which nothing moves, beside a keyframe capture's that stores one frame a second.

Each camera id is a connection of its own.
"""

from __future__ import annotations

import time

from demo.camera import Camera
from demo.motion_film import make_motion_film
from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.harness import Cpu, Running, line, service

_CAMERAS, _SECONDS = 5, 30.0
_SETTLE = 6.0  # seconds before the measuring
_MIN_AREA = 0.02  # the film's number along the bottom edge changes, too
_MODES: dict[str, dict[str, object]] = {
    "keyframe": {"capture_mode": "continuous", "sampling": "keyframe"},
    "event_driven, idle": {"capture_mode": "event_driven", "motion": {"min_area": _MIN_AREA}},
    "event_driven, triggers only": {"capture_mode": "event_driven", "motion": {"enabled": False}},
}


def _measure(running: Running, url: str, cameras: int, seconds: float, fields: dict[str, object]) -> dict[str, float]:
    ids = [running.capture(f"bench-{each}", url, fps=1, **fields) for each in range(cameras)]
    running.until_live(ids)
    time.sleep(_SETTLE)
    stored, looks = (running.metric(f"ingestion_{name}_total") for name in ("frames", "motion_looks"))
    used = Cpu(running.process)
    time.sleep(seconds)
    figures = {
        "cpu_ms_per_camera": used.per_second() / cameras,
        "frames": running.metric("ingestion_frames_total") - stored,
        "looks": running.metric("ingestion_motion_looks_total") - looks,
        "skipped": running.metric("ingestion_motion_skipped_total"),
    }
    running.cancel(ids)
    return figures


def motion(bench: Bench) -> None:
    film = make_motion_film(
        bench.folder, starts=(), width=1920, height=1080, seconds=8, bitrate=4_000_000, noise=1.0, preset="superfast"
    )
    found: dict[str, list[float]] = {name: [] for name in _MODES}
    with Camera({"still": film}) as camera:
        for each in range(bench.rounds):
            for number, (name, fields) in enumerate(_MODES.items()):
                with service(bench.folder / f"{each}-{number}") as running:
                    figures = _measure(running, camera.url_of("still"), _CAMERAS, _SECONDS, fields)
                line(name, **figures)
                found[name].append(figures["cpu_ms_per_camera"])
    keyframe = found["keyframe"]
    bench.compare("event_driven, idle / keyframe", "ms/s", found["event_driven, idle"], keyframe, Goal("<=", 1.3))
    bench.compare("event_driven, triggers only / keyframe", "ms/s", found["event_driven, triggers only"], keyframe, Goal())
