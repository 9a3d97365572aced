"""What the benchmarks share: the service as a process of its own, its peers, and what processes use.

Only the measured process is counted, ours or the peer's: camera, S3 server and PostgreSQL share the machine with both.
CPU is user and system time in milliseconds a second of wall time.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.conftest import Service, clean_environment

Body = Mapping[str, object]


class Running:
    """The service under test and a client of it."""

    def __init__(self, service: Service) -> None:
        assert service.process is not None
        self.process = psutil.Process(service.process.pid)
        self.http = httpx.Client(base_url=service.url, timeout=60, limits=httpx.Limits(max_connections=64))

    def capture(self, camera_id: str, url: str, **fields: object) -> str:
        body: Body = {"camera_id": camera_id, "rtsp_url": url, "capture_mode": "continuous", **fields}
        return str(self.http.post("/api/v1/ingest/rtsp", json=body).raise_for_status().json()["request_id"])

    def status(self, request_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/api/v1/ingest/status/{request_id}").raise_for_status().json()
        return found

    def cancel(self, request_ids: Sequence[str]) -> None:
        for each in request_ids:
            self.http.post(f"/api/v1/ingest/requests/{each}/cancel").raise_for_status()

    def until_live(self, request_ids: Sequence[str], seconds: float = 60) -> float:
        """Waits until every capture has its first picture; seconds that the last one took, from now.

        Looks are few and small: they are answered by the loop that the captures start on.
        """
        began, wanted = time.monotonic(), set(request_ids)
        while waiting := wanted - {each["request_id"] for each in self.requests() if each["grid_start"]}:
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"{len(waiting)} captures have no picture after {seconds} s")
            time.sleep(0.1)
        return time.monotonic() - began

    def until_ended(self, request_ids: Sequence[str]) -> None:
        wanted = set(request_ids)
        while any(each["request_id"] in wanted and each["status"] == "in_progress" for each in self.requests()):
            time.sleep(0.5)

    def requests(self) -> list[dict[str, Any]]:
        """The newest requests, at most 100."""
        found: list[dict[str, Any]] = self._get("/api/v1/ingest/requests", limit=100)["items"]
        return found

    def _get(self, path: str, **query: int) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(path, params=query).raise_for_status().json()
        return found

    def frames(self, request_id: str, most: int = 100_000) -> list[dict[str, Any]]:
        """Stored frames by capture time."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while len(found) < most:
            query: dict[str, str | int] = {"request_id": request_id, "limit": 200, "order": "asc"}
            if cursor is not None:
                query["cursor"] = cursor
            page = self.http.get("/api/v1/frames", params=query).raise_for_status().json()
            found += page["items"]
            if (cursor := page["next_cursor"]) is None:
                break
        return found

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = self.http.get("/metrics").raise_for_status().text
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))

    def processes(self) -> list[psutil.Process]:
        """The service's own and its workers; not the servers that it runs."""
        children = self.process.children(recursive=True)
        return [self.process, *(each for each in children if any("worker_process" in part for part in each.cmdline()))]

    def open_streams(self) -> int:
        """Streams that have a connection."""
        text = self.http.get("/metrics").raise_for_status().text
        states = dict(re.findall(r'^ingestion_streams{state="(\w+)"} (\S+)$', text, re.MULTILINE))
        return round(sum(float(states.get(state, 0)) for state in ("live", "stalled")))

    @property
    def rss(self) -> float:
        """Bytes."""
        return float(self.process.memory_info().rss)


@contextmanager
def service(folder: Path, root: Path | None = None, **settings: object) -> Iterator[Running]:
    """The service on empty embedded servers in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **clean_environment(), "DATA_DIR": str(folder / "data"), "API__PORT": "0", "ENVIRONMENT": "test",
        "RTSP__MAX_CONCURRENT_STREAMS": "500", "RTSP__MAX_CONCURRENT_CAPTURES": "500",
        **{name: str(value) for name, value in settings.items()},
    }  # fmt: skip
    made = Service(environment, folder / "service.log")
    made.root, made.forked = root or made.root, False
    started = made.start()
    try:
        yield Running(started)
    finally:
        started.stop()


class Cpu:
    """CPU that processes use between its making and `per_second`."""

    def __init__(self, *processes: psutil.Process) -> None:
        self._processes = processes
        self._before, self._began = self._total(), time.monotonic()

    def _total(self) -> float:
        times = [process.cpu_times() for process in self._processes]
        return float(sum(each.user + each.system for each in times))

    def seconds(self) -> float:
        """CPU seconds so far."""
        return self._total() - self._before

    def per_second(self) -> float:
        """Milliseconds of CPU a second."""
        return self.seconds() / (time.monotonic() - self._began) * 1000


@contextmanager
def ffmpegs(commands: Sequence[Sequence[str]]) -> Iterator[list[psutil.Process]]:
    """Peers, `ffmpeg` with these arguments each, killed at the end."""
    running = [
        subprocess.Popen(["ffmpeg", "-nostdin", "-loglevel", "error", *arguments], stderr=subprocess.DEVNULL)
        for arguments in commands
    ]
    try:
        yield [psutil.Process(each.pid) for each in running]
    finally:
        for each in running:
            each.kill()
            each.wait()


def machine() -> str:
    """What the figures are of."""
    return f"{psutil.cpu_count()} CPUs, Python {platform.python_version()} ({sys.base_prefix})"


def stolen() -> float:
    """Seconds of CPU time since boot that the host of this virtual machine gave to others."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


def at(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time."""
    return datetime.fromisoformat(text).timestamp()


def share(values: Sequence[float], part: float) -> float:
    """The quantile `part` (0.5, 0.99) by rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def line(name: str, **figures: float) -> None:
    """One line of a result."""
    print(f"{name:44}" + "  ".join(f"{key} {value:.2f}" for key, value in figures.items()), flush=True)
