"""CPU of captures and of open streams, beside ffmpeg's in the same run: the service's process and its workers.

Store and database are not counted on either side (ffmpeg writes files); PUTs, rows and slots of the service are.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from demo.camera import Camera
from tests.benchmarks.film import FILMS, FPS, bench_film
from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.harness import Cpu, Running, ffmpegs, service

_SETTLE = 5.0  # seconds before the measuring: the streams have proved themselves, and are decoded by threads
_PEER_SETTLE = 4.0  # ffmpeg has looked at the stream, and has worked off what came meanwhile
_SECONDS = 8.0  # a turn
# Looks at a stream for 0.1 s instead of 5 s, which changes nothing of what is measured.
_INPUT = ["-rtsp_transport", "tcp", "-analyzeduration", "100000"]
_NOKEY = (["-skip_frame", "nokey"], ["-vsync", "passthrough"])
_RATE: tuple[list[str], list[str]] = ([], ["-vf", "fps=1"])
_ALL: tuple[list[str], list[str]] = ([], ["-vsync", "passthrough"])


def _ours(running: Running, url: str, cameras: int, sampling: str, fps: float, **more: object) -> dict[str, float]:
    ids = [running.capture(f"bench-{each}", url, fps=fps, sampling=sampling, **more) for each in range(cameras)]
    running.until_live(ids)
    time.sleep(_SETTLE)
    stored = sum(running.status(each)["progress"]["stored"] for each in ids)
    used = Cpu(*running.processes())
    time.sleep(_SECONDS)
    cpu, seconds_used = used.per_second(), used.seconds()
    progress = [running.status(each)["progress"] for each in ids]
    frames = sum(each["stored"] for each in progress) - stored
    figures = {
        "cpu": cpu / cameras, "frames": frames / seconds_used, "rss_mb": running.rss / 1e6,
        "dropped": sum(sum(each["dropped"].values()) for each in progress),
    }  # fmt: skip
    running.cancel(ids)
    running.until_ended(ids)
    figures["bytes"] = statistics.mean(frame["size_bytes"] for frame in running.frames(ids[0]))
    return figures


def _peer(url: str, processes: int, arguments: tuple[list[str], list[str]], folder: Path) -> dict[str, float]:
    folder.mkdir(parents=True, exist_ok=True)
    before, after = arguments
    commands = [
        [*_INPUT, *before, "-i", url, *after, "-q:v", "3", str(folder / f"{each}-%06d.jpg")] for each in range(processes)
    ]
    with ffmpegs(commands) as running:
        time.sleep(_PEER_SETTLE)
        files, used = len(list(folder.iterdir())), Cpu(*running)
        time.sleep(_SECONDS)
        cpu, seconds_used = used.per_second(), used.seconds()
        frames = len(list(folder.iterdir())) - files
    for each in folder.iterdir():
        each.unlink()
    return {"cpu": cpu / processes, "frames": frames / seconds_used}


def _captures(bench: Bench, reader: str, goal: float) -> None:
    """20 cameras at one frame a second, against one ffmpeg for each of ten."""
    film = bench_film(FILMS, gop=FPS)
    told: dict[str, float] = {}
    with Camera(film.path, join="now") as camera, service(
        bench.folder / reader, RTSP__LINGER=0, RTSP__READER=reader
    ) as running:  # fmt: skip

        def ours() -> float:
            told.update(_ours(running, camera.url, 20, "auto", 1))
            return told["cpu"]

        mine, files = bench.turns(ours, lambda: _peer(camera.url, 10, _NOKEY, bench.folder / "files")["cpu"])
    more = {name: told[name] for name in ("rss_mb", "dropped")}
    what = f"{reader}: auto, GOP 25, 20 cameras / ffmpeg -skip_frame nokey"
    bench.compare(what, "ms a camera and s", mine, files, Goal("<=", goal), **more)


def captures_native(bench: Bench) -> None:
    """auto, one frame a second, by the native reader."""
    _captures(bench, "native", 0.62)


def captures_opencv(bench: Bench) -> None:
    """The same by OpenCV."""
    _captures(bench, "opencv", 0.75)


def source(bench: Bench) -> None:
    """The camera's own keyframes, one a second, by the native reader: CPU, and bytes beside JPEG's at quality 90."""
    film = bench_film(FILMS, gop=FPS)
    told: dict[str, float] = {}
    with Camera(film.path, join="now") as camera, service(
        bench.folder / "source", RTSP__LINGER=0, RTSP__READER="native"
    ) as running:  # fmt: skip

        def ours() -> float:
            told.update(_ours(running, camera.url, 20, "keyframe", 1, encoding="source"))
            return told["cpu"]

        mine, files = bench.turns(ours, lambda: _peer(camera.url, 10, _NOKEY, bench.folder / "files")["cpu"])
        jpeg = _ours(running, camera.url, 1, "keyframe", 1)
    more = {name: told[name] for name in ("rss_mb", "dropped")}
    what = "source, GOP 25, 20 cameras / ffmpeg -skip_frame nokey to JPEG"
    bench.compare(what, "ms a camera and s", mine, files, Goal("<=", 0.25), **more)
    bench.compare("bytes a frame, source / JPEG 90", "bytes", [told["bytes"]], [jpeg["bytes"]], Goal("<=", 0.6))


def exact(bench: Bench) -> None:
    """The picture nearest to each second, where keyframes come every two."""
    film = bench_film(FILMS, gop=2 * FPS)
    with Camera(film.path, join="now") as camera, service(bench.folder / "exact", RTSP__LINGER=0) as running:
        mine, files = bench.turns(
            lambda: _ours(running, camera.url, 5, "exact", 1)["cpu"],
            lambda: _peer(camera.url, 5, _RATE, bench.folder / "files")["cpu"],
        )
    bench.compare("exact, GOP 50, 5 cameras / ffmpeg -vf fps=1", "ms a camera and s", mine, files, Goal("<=", 0.5))


def every_frame(bench: Bench) -> None:
    """All 25 pictures a second of one camera, against ffmpeg to JPEG files."""
    film = bench_film(FILMS, gop=2 * FPS)
    with Camera(film.path, join="now") as camera, service(bench.folder / "every", RTSP__LINGER=0) as running:
        mine, files = bench.turns(
            lambda: _ours(running, camera.url, 1, "exact", FPS)["frames"],
            lambda: _peer(camera.url, 1, _ALL, bench.folder / "files")["frames"],
        )
    bench.compare("25 frames a second / ffmpeg to JPEG files", "frames a CPU second", mine, files, Goal(">=", 1.5))


def idle_streams(bench: Bench) -> None:
    """40 cameras that are kept open and of which nothing is wanted, against ffmpeg that reads and drops the packets."""
    film, cameras = bench_film(FILMS, gop=FPS), 40
    with Camera(film.path, join="now") as camera, service(
        bench.folder / "idle", RTSP__LINGER=0, RTSP__READER="native"
    ) as running:  # fmt: skip
        for each in range(cameras):
            body = {"camera_id": f"idle-{each}", "rtsp_url": camera.url}
            running.http.post("/api/v1/cameras", json=body).raise_for_status()

        def keep_open(wanted: bool) -> None:
            for each in range(cameras):
                running.http.patch(f"/api/v1/cameras/idle-{each}", json={"keep_open": wanted}).raise_for_status()
            deadline = time.monotonic() + 30
            while running.open_streams() != (cameras if wanted else 0):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{running.open_streams()} streams are open")
                time.sleep(0.25)

        def ours() -> float:
            keep_open(True)
            time.sleep(_SETTLE)
            used = Cpu(*running.processes())
            time.sleep(_SECONDS)
            cpu = used.per_second()
            keep_open(False)
            return cpu / cameras

        def peer() -> float:
            with ffmpegs([[*_INPUT, "-i", camera.url, "-c", "copy", "-f", "null", "-"]] * cameras) as processes:
                time.sleep(_PEER_SETTLE)
                used = Cpu(*processes)
                time.sleep(_SECONDS)
                return used.per_second() / cameras

        mine, files = bench.turns(ours, peer)
    bench.compare(f"{cameras} idle streams, native / ffmpeg -c copy", "ms a camera and s", mine, files, Goal("<=", 0.7))
