"""How true capture times are.

Films whose pictures carry their number, so that each stored frame tells when it was taken. In one run, side by side:
stored frames by receipt (both readers) and by the camera's clock, and a naive reader of our own that decodes with
cv2.VideoCapture and stamps each picture with time.time(). First alone, then with other readers on the cameras.
Offset is the median of (stamp - truth); spread is how far 50 and 99 % of the errors lie from it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import cv2
import httpx
import numpy as np

from demo.camera import Camera
from demo.film import make_film, read_frame_number
from demo.sources import capture_time
from tests.benchmarks.frame import Bench, Goal
from tests.conftest import Service, clean_environment

FPS = 25
FILM_SECONDS = 20
PICTURES = FPS * FILM_SECONDS
SIZE = (640, 360)
SETTLED = 10.0  # seconds after the first frame that are not judged
SECONDS, OTHERS_READING = 50.0, 20  # of a phase; readers beside ours in the second
SAMPLED = 10.0  # frames a second that are stored

# Programs of their own, so that neither shares an interpreter with anything.
NAIVE = """
import sys, time, cv2
from demo.film import read_frame_number
capture = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG)
print("open", flush=True)
while True:
    found, image = capture.read()
    at = time.time()
    number = read_frame_number(image) if found else None
    if number is not None:
        print(number, repr(at), flush=True)
"""
OTHERS = """
import sys, threading, av
def read():
    with av.open(sys.argv[1], options={"rtsp_transport": "tcp", "analyzeduration": "100000"}) as container:
        for _ in container.demux(video=0):
            pass
threads = [threading.Thread(target=read, daemon=True) for _ in range(int(sys.argv[2]))]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@dataclass(frozen=True)
class Sample:
    """One picture: when it was taken, by the film and by the stamp (seconds since the epoch)."""

    truth: float
    stamp: float
    source: str
    uncertainty: float | None = None


def sample(number: int, stamp: float, source: str, uncertainty: float | None = None) -> Sample:
    return Sample(capture_time(number, FPS, PICTURES, stamp), stamp, source, uncertainty)


def program(text: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**clean_environment(), "OPENCV_FFMPEG_CAPTURE_OPTIONS": "rtsp_transport;tcp"}
    return subprocess.Popen(
        [sys.executable, "-c", text, *arguments], env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def stored(client: httpx.Client, request_id: str) -> list[Sample]:
    """The stored frames of a request."""
    found: list[Sample] = []
    cursor = None
    while True:
        query: dict[str, Any] = {"request_id": request_id, "limit": 200, **({"cursor": cursor} if cursor else {})}
        page = client.get("/api/v1/frames", params=query).raise_for_status().json()
        for frame in page["items"]:
            data = client.get(f"/api/v1/frames/{frame['frame_id']}/content?proxy=true").raise_for_status().content
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            number = read_frame_number(image.astype(np.uint8)) if image is not None else None
            if number is not None:
                at = datetime.fromisoformat(frame["timestamp"]).timestamp()
                found.append(sample(number, at, frame["timestamp_source"], frame["timestamp_uncertainty_ms"] / 1000))
        if (cursor := page["next_cursor"]) is None:
            return found


def run(bench: Bench, client: httpx.Client, reporting: Camera, silent: Camera, seconds: float, others: int) -> None:
    """One phase: all ways beside each other, `others` readers on each camera."""
    crowd = [program(OTHERS, camera.url, str(others)) for camera in (reporting, silent)] if others else []
    time.sleep(5 if others else 0)
    naive = program(NAIVE, reporting.url)
    ways = {
        "receipt, opencv": ("opencv", reporting), "receipt, native": ("native", silent),
        "rtcp, native": ("native", reporting),
    }  # fmt: skip
    requests = {}
    for way, (reader, camera) in ways.items():
        camera_id = f"{reader}-{way[:4].strip(',')}-{others}"
        body: dict[str, Any] = {"camera_id": camera_id, "rtsp_url": camera.url, "reader": reader}
        client.post("/api/v1/cameras", json=body).raise_for_status()
        body = {
            "camera_id": camera_id, "capture_mode": "continuous", "sampling": "exact", "fps": SAMPLED,
            "capture_duration": seconds + SETTLED,
        }  # fmt: skip
        requests[way] = client.post("/api/v1/ingest/rtsp", json=body).raise_for_status().json()["request_id"]
    time.sleep(seconds + SETTLED + 5)
    for each in (naive, *crowd):
        each.kill()
    print(f"\n{others} other readers on each camera; load average {os.getloadavg()[0]:.1f}")
    lines = naive.communicate()[0].split("\n")
    naively = show("naive: cv2 and time.time()", [
        sample(int(line.split()[0]), float(line.split()[1]), "receipt") for line in lines if line.count(" ") == 1
    ])  # fmt: skip
    for way, request_id in requests.items():
        spread = show(way, stored(client, request_id))
        if spread is not None and naively is not None:
            what = f"{way}, {others} other readers: spread of the errors, p99 / naive"
            bench.compare(what, "ms", [spread], [naively], Goal())


def show(way: str, samples: Sequence[Sample]) -> float | None:
    """One line of figures, of what came after the first seconds; the spread's p99 in ms."""
    first = min((one.truth for one in samples), default=0.0)
    judged = [one for one in samples if one.truth >= first + SETTLED]
    source = way.split(",")[0]
    if source in ("rtcp", "receipt"):
        judged = [one for one in judged if one.source == source]
    if len(judged) < 10:
        print(f"  {way:28} only {len(judged)} frames of {len(samples)}", flush=True)
        return None
    errors = [(one.stamp - one.truth) * 1000 for one in judged]
    offset = statistics.median(errors)
    away = sorted(abs(error - offset) for error in errors)
    covered = [one for one in judged if one.uncertainty is not None and abs(one.stamp - one.truth) <= one.uncertainty]
    told = f"  within its uncertainty {len(covered) / len(judged):.1%}" if judged[0].uncertainty is not None else ""
    p50, p99 = away[len(away) // 2], away[int(len(away) * 0.99) - 1]
    print(
        f"  {way:28} offset {offset:7.2f} ms  spread p50 {p50:6.2f}  p99 {p99:6.2f}"
        f"  worst {away[-1]:6.2f} ms  n {len(judged)}{told}",
        flush=True,
    )
    return p99


def capture_times(bench: Bench) -> None:
    film = make_film(bench.folder, width=SIZE[0], height=SIZE[1], fps=FPS, seconds=FILM_SECONDS, bitrate=800_000)
    environment = {**clean_environment(), "DATA_DIR": str(bench.folder / "data"), "API__PORT": "0", "ENVIRONMENT": "test"}
    service = Service(environment, bench.folder / "service.log").start()
    try:
        with (
            Camera(film) as reporting,
            Camera(film, report_every=0) as silent,
            httpx.Client(base_url=service.url, timeout=30) as client,
        ):
            for others in (0, OTHERS_READING):
                run(bench, client, reporting, silent, SECONDS, others)
    finally:
        service.stop()
