"""How long a snapshot takes to its 201: of an open stream, the first, and cold, beside ffmpeg's one frame."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from demo.camera import Camera
from tests.benchmarks.film import FILMS, FPS, bench_film
from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.harness import Running, line, service, share


def _snap(running: Running, camera_id: str, staleness: float = 0) -> float:
    """Milliseconds."""
    began = time.monotonic()
    answer = running.http.post(f"/api/v1/cameras/{camera_id}/snapshot", json={"max_staleness": staleness})
    answer.raise_for_status()
    return (time.monotonic() - began) * 1000


_COUNT = 50


def snapshots(bench: Bench) -> None:
    """_COUNT of each kind, one after the other, 0.3 s apart; GOP 50."""
    folder, count = bench.folder, _COUNT
    film = bench_film(FILMS, gop=2 * FPS)
    with Camera(film.path, join="now") as camera, service(folder / "snapshot", RTSP__LINGER=0) as running:
        for name, keep_open in (("open", True), ("cold", False)):
            body = {"camera_id": name, "rtsp_url": camera.url, "keep_open": keep_open}
            running.http.post("/api/v1/cameras", json=body).raise_for_status()
        while (running.http.get("/api/v1/cameras/open").json()["stream"] or {}).get("ring_seconds", 0) < 3:
            time.sleep(0.1)
        first = []
        for _ in range(max(3, count // 10)):
            first.append(_snap(running, "open"))
            time.sleep(6.37)  # longer than the decoder is kept in step
        in_step = _series(running, "open", count)
        stale = _series(running, "open", count, 10)
        cold, peer = _cold(running, "cold"), _peer(camera.url, folder)
        # One that sends its current group of pictures at once, so that nobody waits for a keyframe.
        with Camera(film.path, join="burst") as prompt:
            body = {"camera_id": "prompt", "rtsp_url": prompt.url}
            running.http.post("/api/v1/cameras", json=body).raise_for_status()
            prompt_cold, prompt_peer = _cold(running, "prompt"), _peer(prompt.url, folder)
    for name, values in (
        ("first of an open stream", first), ("open, in step", in_step), ("open, max_staleness", stale), ("cold", cold),
        ("ffmpeg -frames:v 1, analyzeduration 100000", peer),
        ("cold, no keyframe to wait for", prompt_cold), ("ffmpeg, no keyframe to wait for", prompt_peer),
    ):  # fmt: skip
        line(name, p50_ms=share(values, 0.5), p99_ms=share(values, 0.99), n=len(values))
    bench.compare("an open stream, in step, p50", "ms", [share(in_step, 0.5)], [], Goal("<=", 45))
    bench.compare("an open stream, max_staleness, p50", "ms", [share(stale, 0.5)], [], Goal("<=", 45))
    bench.compare("the first, exact at GOP 50, p50", "ms", [share(first, 0.5)], [], Goal("<=", 250))
    bench.compare("cold / ffmpeg -frames:v 1, p50", "ms", [share(cold, 0.5)], [share(peer, 0.5)], Goal("<=", 0.8))
    mine, other = [share(prompt_cold, 0.5)], [share(prompt_peer, 0.5)]
    bench.compare("cold / ffmpeg, no keyframe to wait for, p50", "ms", mine, other, Goal("<=", 0.8))


def _series(running: Running, camera_id: str, count: int, staleness: float = 0) -> list[float]:
    """The first brings the decoder in step and is not counted."""
    _snap(running, camera_id, staleness)
    found = []
    for _ in range(count):
        time.sleep(0.3)
        found.append(_snap(running, camera_id, staleness))
    return found


def _cold(running: Running, camera_id: str) -> list[float]:
    """Of a stream that is not open, which RTSP__LINGER=0 sees to."""
    found = []
    for _ in range(max(5, _COUNT // 5)):
        time.sleep(1.03)
        found.append(_snap(running, camera_id))
    return found


def _peer(url: str, folder: Path) -> list[float]:
    return [_ffmpeg(url, folder) for _ in range(max(5, _COUNT // 5))]


def _ffmpeg(url: str, folder: Path) -> float:
    time.sleep(1.03)
    began = time.monotonic()
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", "-rtsp_transport", "tcp", "-analyzeduration", "100000"]
    subprocess.run([*command, "-i", url, "-frames:v", "1", "-q:v", "3", str(folder / "one.jpg")], check=True)
    return (time.monotonic() - began) * 1000
