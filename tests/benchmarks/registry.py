"""Every benchmark by its name: `make bench NAME`; `make bench` alone runs those of the table in docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from tests.benchmarks.frame import Bench


class Entry(NamedTuple):
    """Where a benchmark's function is (imported when it runs), and whether `make bench` alone runs it."""

    function: str
    about: str
    alone: bool = True

    def measure(self, bench: Bench) -> None:
        module, name = self.function.split(":")
        work: Callable[[Bench], None] = getattr(import_module(f"tests.benchmarks.{module}"), name)
        work(bench)


BENCHMARKS = {
    "status": Entry("http:status", "GET status beside a bare FastAPI route"),
    "list": Entry("http:frames", "GET /frames?limit=50 beside a bare FastAPI route"),
    "upload": Entry("upload:upload", "uploads, checked, stored and committed, beside boto3's put_object"),
    "admission": Entry("admission:admission", "POST /ingest/rtsp beside a bare INSERT route; 10,000 pending beside none"),
    "start-up": Entry("start_up:start_up", "python main.py to ready, beside the libraries' imports"),
    "idle": Entry("idle:idle", "CPU with nothing to do"),
    "deep": Entry("deep:deep", "lists and the nearest frame among 10,000 frames and among a million"),
    "large": Entry("large:large", "memory while 32 uploads of 34-50 MB are received"),
    "capture-native": Entry("cpu:captures_native", "CPU a camera at one frame a second, native reader, beside ffmpeg's"),
    "capture-opencv": Entry("cpu:captures_opencv", "the same by OpenCV"),
    "source": Entry("cpu:source", "CPU and bytes of keyframes stored as they came, beside ffmpeg's and JPEG's"),
    "exact": Entry("cpu:exact", "CPU a camera of exact pictures at GOP 50, beside ffmpeg's"),
    "dense": Entry("cpu:every_frame", "every frame of one camera, beside ffmpeg's"),
    "idle-streams": Entry("cpu:idle_streams", "CPU of 40 open streams of which nothing is wanted, beside ffmpeg's"),
    "start": Entry("many:start", "40 cameras asked for at once, by both readers: the last is live"),
    "cameras": Entry("many:cameras", "40 cameras for a minute, by the native reader: drops, capture to stored"),
    "snapshot": Entry("snapshot:snapshots", "how long a snapshot takes, beside ffmpeg's one frame"),
    "quality": Entry("quality:quality", "CPU of judging a picture", alone=False),
    "memory": Entry("memory:memory", "memory of a camera beyond its ring", alone=False),
    "staleness": Entry("staleness:staleness", "how old stored pictures are after two minutes", alone=False),
    "motion": Entry("events:motion", "CPU of event_driven captures while nothing moves", alone=False),
    "outbox": Entry("outbox:outbox", "what events cost the writers, and how soon they are read", alone=False),
    "ceiling": Entry("ceiling:ceiling", "ledger writes, leases and events that PostgreSQL does a second", alone=False),
    "time": Entry("time:capture_times", "how true capture times are, beside a naive reader's", alone=False),
    "camera-table": Entry("cameras:camera_table", "times within their uncertainty, camera by camera", alone=False),
    "sockets": Entry("sockets:sockets", "memory of WebSockets that are idle, and one event to all of them", alone=False),
    "processes": Entry("processes:processes", "uploads and status reads of two api processes, beside one", alone=False),
    "calls": Entry("calls:calls", "snapshot, burst, latest.jpg, probe by another process, beside one process", alone=False),
    "access": Entry("access:access", "what a key's check costs", alone=False),
    "counting": Entry("counting:counting", "what counting a request costs, in memory and in Redis", alone=False),
}
