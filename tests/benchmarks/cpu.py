"""CPU and memory of one frame a second, and of every frame, beside ffmpeg's in the same run.

Ours and the peer's take turns, and the median of the rounds' ratios counts: shared machines change their speed within
minutes.
"""

from __future__ import annotations

import time
from pathlib import Path

from demo.camera import Camera
from tests.benchmarks.film import FPS, bench_film
from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.harness import Cpu, Running, ffmpegs, line, service

_SETTLE = 5.0  # seconds before the measuring
_PEER_SETTLE = 12.0  # ffmpeg looks at a stream for 5 s, and then works off what came meanwhile
_CAMERAS = 5  # ffmpeg needs a fifth of a core for each
_SECONDS = 20.0  # a round


def _ours(running: Running, url: str, cameras: int, seconds: float, sampling: str, fps: float) -> dict[str, float]:
    ids = [running.capture(f"bench-{each}", url, fps=fps, sampling=sampling) for each in range(cameras)]
    running.until_live(ids)
    time.sleep(_SETTLE)
    stored = sum(running.status(each)["progress"]["stored"] for each in ids)
    used = Cpu(running.process)
    time.sleep(seconds)
    cpu, seconds_used = used.per_second(), used.seconds()
    progress = [running.status(each)["progress"] for each in ids]
    frames = sum(each["stored"] for each in progress) - stored
    figures = {
        "cpu_ms_per_camera": cpu / cameras, "frames": frames,
        "dropped": sum(sum(each["dropped"].values()) for each in progress),
        "frames_per_cpu_s": frames / seconds_used, "rss_mb": running.rss / 1e6,
        "ring_mb": running.metric("ingestion_ring_bytes") / 1e6,
    }  # fmt: skip
    running.cancel(ids)
    return figures


def _peer(url: str, cameras: int, seconds: float, before: list[str], after: list[str], folder: Path) -> dict[str, float]:
    folder.mkdir(parents=True, exist_ok=True)
    commands = [
        ["-rtsp_transport", "tcp", *before, "-i", url, *after, "-q:v", "3", str(folder / f"{each}-%06d.jpg")]
        for each in range(cameras)
    ]
    with ffmpegs(commands) as processes:
        time.sleep(_PEER_SETTLE)
        files, used = len(list(folder.iterdir())), Cpu(*processes)
        time.sleep(seconds)
        cpu, seconds_used = used.per_second(), used.seconds()
        frames = len(list(folder.iterdir())) - files
        memory = sum(each.memory_info().rss for each in processes)
    return {
        "cpu_ms_per_camera": cpu / cameras, "frames": frames, "frames_per_cpu_s": frames / seconds_used,
        "rss_mb": memory / 1e6,
    }  # fmt: skip


def one_a_second(bench: Bench) -> None:
    """auto at GOP 25 and exact at GOP 50, against ffmpeg's keyframes and ffmpeg's fps=1."""
    folder, cameras, seconds = bench.folder, _CAMERAS, _SECONDS
    keyed, long = bench_film(folder, gop=FPS), bench_film(folder, gop=2 * FPS)
    print(f"films: GOP 25 keyframes {keyed.keyframe_bytes} B, {keyed.bitrate} bit/s; GOP 50 {long.bitrate} bit/s")
    nokey = ["-skip_frame", "nokey"], ["-vsync", "passthrough"]
    rate: tuple[list[str], list[str]] = ([], ["-vf", "fps=1"])
    rounds: list[list[float]] = []
    films = {"gop25": keyed.path, "gop50": long.path}
    with Camera(films, join="now") as camera, service(folder / "cpu", RTSP__LINGER=0) as running:
        short, whole = camera.url_of("gop25"), camera.url_of("gop50")
        for number in range(bench.rounds):
            found = {
                f"trackshift auto, GOP 25, {cameras} cameras": _ours(running, short, cameras, seconds, "auto", 1),
                "ffmpeg -skip_frame nokey, GOP 25": _peer(short, cameras, seconds, *nokey, folder / f"nokey-{number}"),
                "ffmpeg -vf fps=1, GOP 25": _peer(short, cameras, seconds, *rate, folder / f"short-{number}"),
                f"trackshift exact, GOP 50, {cameras} cameras": _ours(running, whole, cameras, seconds, "exact", 1),
                "ffmpeg -vf fps=1, GOP 50": _peer(whole, cameras, seconds, *rate, folder / f"whole-{number}"),
            }
            for name, figures in found.items():
                line(name, **figures)
            rounds.append([each["cpu_ms_per_camera"] for each in found.values()])
    auto, keys, fps_short, exact, fps_long = zip(*rounds, strict=True)
    bench.compare("auto, GOP 25 / ffmpeg -skip_frame nokey", "ms/s", auto, keys, Goal("<=", 0.62))
    bench.compare("auto, GOP 25 / ffmpeg -vf fps=1", "ms/s", auto, fps_short, Goal())
    bench.compare("exact, GOP 50 / ffmpeg -vf fps=1", "ms/s", exact, fps_long, Goal("<=", 0.5))


def every_frame(bench: Bench) -> None:
    """All 25 pictures a second of one camera, against ffmpeg to JPEG files."""
    folder, seconds = bench.folder, _SECONDS
    film = bench_film(folder, gop=2 * FPS)
    mine, files = [], []
    with Camera(film.path, join="now") as camera, service(folder / "every", RTSP__LINGER=0) as running:
        for number in range(bench.rounds):
            ours = _ours(running, camera.url, 1, seconds, "exact", FPS)
            line("trackshift exact, 25 a second", **ours)
            peer = _peer(camera.url, 1, seconds, [], ["-vsync", "passthrough"], folder / f"files-{number}")
            line("ffmpeg to JPEG files", **peer)
            mine.append(ours["frames_per_cpu_s"])
            files.append(peer["frames_per_cpu_s"])
    bench.compare("25 frames a second / ffmpeg to JPEG files", "frames a CPU second", mine, files, Goal(">=", 1.5))
