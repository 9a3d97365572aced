"""The table of cameras row by row.

Each camera's script (`tests/kits/camera_table.py`) is played to both readers. A numbered film is compared with the camera's
own log of when each picture was taken. Printed: frames, frames within their stated uncertainty, and the largest error.
"""

from __future__ import annotations

import asyncio

from tests.benchmarks.frame import Bench, Goal
from tests.kits.camera_table import CAMERAS
from tests.kits.scripted_camera import Told, play_native, play_opencv


def row(name: str, reader: str, told: Told) -> tuple[int, int]:
    within, count = told.within
    settled = CAMERAS[name].settled + told.script.shots[0].taken
    later = [abs(error) for _, error, packet in told.rows() if packet.received > settled]
    sources = ", ".join(sorted({packet.source.value for packet in told.packets}))
    print(
        f"| {name} | {reader} | {count} | {within} | {within / max(1, count):.1%} | {1000 * told.worst:.1f} | "
        f"{1000 * max(later, default=0.0):.1f} | {sources} |",
        flush=True,
    )
    return within, count


_SECONDS = 30.0


def camera_table(bench: Bench) -> None:
    for reader, (within, count) in asyncio.run(_run(_SECONDS)).items():
        bench.compare(f"{reader}: frames within their uncertainty", "", [within / count], [], Goal(), frames=count)


async def _run(seconds: float) -> dict[str, tuple[int, int]]:
    print("| camera | reader | frames | within | share | worst, ms | worst after 5 s, ms | source |")
    print("|---|---|---|---|---|---|---|---|")
    totals = {"native": (0, 0), "opencv": (0, 0)}
    for name, camera in CAMERAS.items():
        script = camera.made(seconds)
        for reader in ("native", "opencv")[: 1 + camera.opencv]:
            told = play_native(script) if reader == "native" else await play_opencv(script)
            within, count = row(name, reader, told)
            totals[reader] = (totals[reader][0] + within, totals[reader][1] + count)
    return totals
