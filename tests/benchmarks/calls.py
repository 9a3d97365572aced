"""What an operation on a camera costs when another process does it: the same of one process, and of two, in turns."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.camera import Camera
from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.harness import Running, service, share
from tests.benchmarks.parts import parts
from tests.benchmarks.processes import started

COUNT = 25  # of each kind, one after the other
DEARER = Goal("<=", 20)  # milliseconds


@contextmanager
def _two(folder: Path) -> Iterator[Running]:
    """A process that answers, and one that captures."""
    with (
        parts(folder) as backends,
        started(backends, folder / "worker", ROLE="worker"),
        started(backends, folder / "api", ROLE="api") as api,
    ):
        yield Running(api)


def _snapshot(running: Running) -> float:
    began = time.perf_counter()
    running.http.post("/api/v1/cameras/cam/snapshot", json={"max_staleness": 10}).raise_for_status()
    return (time.perf_counter() - began) * 1000


def _burst(running: Running) -> float:
    began = time.perf_counter()
    running.http.post("/api/v1/ingest/burst", json={"camera_ids": ["cam", "cam2"]}).raise_for_status()
    return (time.perf_counter() - began) * 1000


def _latest(running: Running) -> float:
    time.sleep(0.25)  # a picture that is kept is no call
    began = time.perf_counter()
    running.http.get("/api/v1/cameras/cam/latest.jpg").raise_for_status()
    return (time.perf_counter() - began) * 1000


def _probe(running: Running) -> float:
    """Of a camera that is not there: what is there is listened to for seconds, which is no part."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"rtsp://127.0.0.1:{closed.getsockname()[1]}/cam"
    began = time.perf_counter()
    found = running.http.post("/api/v1/cameras/probe", json={"rtsp_url": url}).raise_for_status().json()
    took = (time.perf_counter() - began) * 1000
    assert found["code"] == "connection_refused", found
    return took


def _open(running: Running, camera: Camera) -> None:
    for name in ("cam", "cam2"):
        body = {"camera_id": name, "rtsp_url": camera.url, "keep_open": True}
        running.http.post("/api/v1/cameras", json=body).raise_for_status()
    for name in ("cam", "cam2"):
        while (running.http.get(f"/api/v1/cameras/{name}").json()["stream"] or {}).get("ring_seconds", 0) < 3:
            time.sleep(0.1)


def calls(bench: Bench) -> None:
    """Snapshots, bursts of two cameras, latest.jpg of an open stream (320 x 180: decoding is no part), and probes."""
    with (
        Camera(size=(320, 180), fps=15, bitrate=300_000) as camera,
        service(bench.folder / "one") as one,
        _two(bench.folder) as two,
    ):
        for each in (one, two):
            _open(each, camera)
        kinds: dict[str, Callable[[Running], float]] = {
            "snapshot": _snapshot,
            "latest.jpg": _latest,
            "burst": _burst,
            "probe": _probe,
        }
        for name, ask in kinds.items():
            ask(one), ask(two)  # do not count
            rounds: list[list[float]] = [[], []]
            for _ in range(COUNT):
                for each, found in zip((one, two), rounds, strict=True):
                    found.append(ask(each))
            here, there = (statistics.median(found) for found in rounds)
            bench.compare(
                f"{name} by another process, p50 more", "ms", [there - here], [], DEARER, one=here, two=there,
                one_p90=share(rounds[0], 0.9), two_p90=share(rounds[1], 0.9),
            )  # fmt: skip
