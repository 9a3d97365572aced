"""CPU and latency of continuous captures, beside ffmpeg's, in one run: `make bench ARGS="--cameras 10"`.

1080p25 H.264 over TCP from the demo's RTSP server; the service stores in its embedded S3 server and PostgreSQL. Only
the service's own process is counted, as only ffmpeg's are: servers and camera share the machine with both.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import httpx
import psutil

from tests.conftest import Service, clean_environment
from utils.demo.camera import Camera
from utils.demo.film import make_film


@contextmanager
def service(folder: Path) -> Iterator[Service]:
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **clean_environment(), "DATA_DIR": str(folder / "data"), "API__PORT": "0", "ENVIRONMENT": "test",
        "RTSP__MAX_CONCURRENT_STREAMS": "500", "RTSP__MAX_CONCURRENT_CAPTURES": "500",
    }  # fmt: skip
    running = Service(environment, folder / "service.log").start()
    try:
        yield running
    finally:
        running.stop()


def ours(url: str, cameras: int, seconds: float, fps: float, sampling: str, folder: Path) -> dict[str, float]:
    """Captures from `cameras` cameras for `seconds`; CPU seconds per camera and second, frames, latency."""
    with service(folder) as running, httpx.Client(base_url=running.url, timeout=30) as client:
        assert running.process is not None
        process = psutil.Process(running.process.pid)
        ids = []
        asked = time.monotonic()
        for number in range(cameras):
            body = {
                "camera_id": f"bench-{number}", "rtsp_url": url, "capture_mode": "continuous", "fps": fps,
                "sampling": sampling, "capture_duration": seconds + 20,
            }  # fmt: skip
            ids.append(client.post("/api/v1/ingest/rtsp", json=body).raise_for_status().json()["request_id"])
        while any(client.get(f"/api/v1/ingest/status/{each}").json()["grid_start"] is None for each in ids):
            time.sleep(0.2)
        live = time.monotonic() - asked
        time.sleep(5)
        before, began = process.cpu_times(), time.monotonic()
        stored_before = sum(client.get(f"/api/v1/ingest/status/{each}").json()["progress"]["stored"] for each in ids)
        time.sleep(seconds)
        after, took = process.cpu_times(), time.monotonic() - began
        answers = [client.get(f"/api/v1/ingest/status/{each}").json() for each in ids]
        memory = process.memory_info().rss
        stored = sum(answer["progress"]["stored"] for answer in answers) - stored_before
        dropped = sum(sum(answer["progress"]["dropped"].values()) for answer in answers)
        delays = sorted(
            (_time(frame["stored_at"]) - _time(frame["timestamp"])).total_seconds()
            for answer in answers for frame in answer["frames"][: int(seconds * fps)]
        )  # fmt: skip
        for each in ids:
            client.post(f"/api/v1/ingest/requests/{each}/cancel")
        cpu = after.user - before.user + after.system - before.system
        return {
            "cpu_ms": cpu / took / cameras * 1000, "frames": stored, "dropped": dropped, "rss_mb": memory / 1e6,
            "p50_s": statistics.median(delays), "p99_s": delays[int(len(delays) * 0.99) - 1], "all_live_s": live,
        }  # fmt: skip


def peer(
    options_in: list[str], options_out: list[str], url: str, cameras: int, seconds: float, folder: Path
) -> dict[str, float]:
    """ffmpeg writing JPEG files, one process a camera."""
    folder.mkdir(parents=True)
    before, began = os.times(), time.monotonic()
    processes = [
        subprocess.Popen(
            ["ffmpeg", "-nostdin", "-loglevel", "error", "-rtsp_transport", "tcp", *options_in, "-i", url,
             "-t", str(seconds), *options_out, "-q:v", "3", str(folder / f"{number}-%05d.jpg")]
        )
        for number in range(cameras)
    ]  # fmt: skip
    for process in processes:
        process.wait(seconds + 60)
    after, took = os.times(), time.monotonic() - began
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return {"cpu_ms": cpu / took / cameras * 1000, "frames": len(list(folder.glob("*.jpg")))}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--fps", type=float, default=1)
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--bitrate", type=int, default=4_000_000)
    options = parser.parse_args()
    width, height = (int(part) for part in options.size.split("x"))
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    films = {
        f"gop{gop}": make_film(folder, width=width, height=height, seconds=20, gop=gop, bitrate=options.bitrate)
        for gop in (25, 50)
    }
    try:
        with Camera(films) as camera:
            for sampling, film in (("auto", "gop25"), ("exact", "gop50")):
                url = camera.url_of(film)
                result = ours(url, options.cameras, options.seconds, options.fps, sampling, folder / sampling)
                _print(f"trackshift {sampling} {film}", result)
            if shutil.which("ffmpeg") is None:
                print("no ffmpeg on the PATH: no peer to compare with", file=sys.stderr)
                return
            rate = ["-vf", f"fps={options.fps}"]
            url = camera.url_of("gop25")
            nokey = ["-skip_frame", "nokey"], ["-vsync", "passthrough"]
            _print("ffmpeg -skip_frame nokey", peer(*nokey, url, options.cameras, options.seconds, folder / "nokey"))
            url = camera.url_of("gop50")
            _print("ffmpeg -vf fps", peer([], rate, url, options.cameras, options.seconds, folder / "fps"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _print(name: str, figures: dict[str, float]) -> None:
    print(f"{name:28}" + "  ".join(f"{key} {value:.2f}" for key, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
