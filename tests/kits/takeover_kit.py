"""Two services on one database and one bucket, and somebody who looks at a capture all the time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg
import httpx

from config import DbSettings
from tests.conftest import Backends, Service
from tests.kits.service_support import FINAL, assert_ledger, service_on, until

LOOK_EVERY = 0.1  # seconds


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def fetch(db: DbSettings, query: str, *values: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(
        host=db.HOST, port=db.PORT, user=db.USER, password=db.PASSWORD.get_secret_value() or None, database=db.NAME
    )
    try:
        return list(await connection.fetch(query, *values))
    finally:
        await connection.close()


def signal_tree(pid: int, what: signal.Signals) -> None:
    """To a service's own process: what it started (nothing here) goes on."""
    os.kill(pid, what)


def log_lines(service: Service, event: str, **having: object) -> list[dict[str, Any]]:
    """The service's log lines of that event."""
    found = []
    for line in service.text().splitlines():
        if f'"{event}"' not in line:
            continue
        entry = json.loads(line)
        if entry.get("event") == event and all(entry.get(name) == value for name, value in having.items()):
            found.append(entry)
    return found


@dataclass
class Pair:
    """Two services."""

    services: list[Service]
    db: DbSettings

    async def owner(self, request_id: str) -> Service:
        """Who holds the capture's lease."""

        async def look() -> Service | None:
            rows = await fetch(self.db, "SELECT owner FROM capture_leases WHERE request_id = $1", request_id)
            pid = int(rows[0]["owner"].split(":")[1]) if rows and rows[0]["owner"] else None
            running = [service for service in self.services if service.process is not None and service.process.pid == pid]
            return running[0] if running else None

        found: Service = await until(look, "somebody owns the capture", 15)
        return found

    def other(self, service: Service) -> Service:
        return next(each for each in self.services if each is not service)

    async def first_frame_by(self, service: Service, request_id: str, epoch: int, within: float) -> float:
        """Seconds until the service, as owner of that epoch, has stored a frame of its own."""
        began = time.monotonic()

        async def look() -> bool:
            resumed = log_lines(service, "capture_resumed", ingestion_id=request_id, epoch=epoch)
            if not resumed:
                return False
            query = "SELECT count(*) AS n FROM frames WHERE request_id = $1 AND sequence >= $2"
            return bool((await fetch(self.db, query, request_id, resumed[0]["first_slot"]))[0]["n"])

        await until(look, "the other's first frame", within, 0.02)
        return time.monotonic() - began

    async def epoch(self, request_id: str) -> int:
        rows = await fetch(self.db, "SELECT epoch FROM capture_leases WHERE request_id = $1", request_id)
        return int(rows[0]["epoch"])


@asynccontextmanager
async def pair_on(
    backends: Backends, folder: Path, *, first: Backends | None = None, **environment: str
) -> AsyncIterator[Pair]:
    """Both are started; `first`: where the first one believes the parts to be."""
    services = [
        service_on(each, folder / f"service-{number}", **environment)
        for number, each in enumerate([first or backends, backends])
    ]
    for number in (0, 1):
        (folder / f"service-{number}").mkdir(parents=True, exist_ok=True)
    try:
        await asyncio.to_thread(services[0].start)  # one after the other: both would migrate
        await asyncio.to_thread(services[1].start)
        yield Pair(services, backends.db)
    finally:
        for service in services:
            if service.process is not None and service.process.poll() is None:
                service.process.send_signal(signal.SIGCONT)
                await asyncio.to_thread(service.stop)


@dataclass
class Looker:
    """Reads a capture's status all the time, from whoever answers; asserts what must hold at every look.

    The ledger's identity; stored and expected never fall; a final state never changes; gaps do not overlap, at most
    one is open; whoever sees slots lost with a lease sees the gap that they are in.
    """

    services: list[Service]
    request_id: str
    looks: int = 0
    unanswered: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        if self._task.done():
            self._task.result()  # what it found wrong
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        async with httpx.AsyncClient(timeout=1) as client:
            while True:
                for service in self.services:
                    try:
                        answer = await client.get(f"{service.url}/api/v1/ingest/status/{self.request_id}")
                    except httpx.TransportError:
                        self.unanswered += 1
                        continue
                    if answer.status_code == 503:
                        self.unanswered += 1
                        continue
                    assert answer.status_code == 200, answer.text
                    self.check(answer.json())
                await asyncio.sleep(LOOK_EVERY)

    def check(self, found: dict[str, Any]) -> None:
        self.looks += 1
        assert_ledger(found)
        progress, before = found["progress"], self.last
        if before:
            assert progress["stored"] >= before["progress"]["stored"]
            assert progress["expected"] >= before["progress"]["expected"]
            if before["status"] in FINAL:
                assert found["status"] == before["status"]
                assert found["completed_at"] == before["completed_at"]
            if before["grid_start"] is not None:
                assert found["grid_start"] == before["grid_start"]
        gaps = progress["gaps"]
        for one, two in pairwise(gaps):
            assert one["to"] is not None, gaps
            assert seconds(one["to"]) <= seconds(two["from"]), gaps
        if progress["dropped"].get("lease_lost"):
            assert gaps, found
        if found["status"] in FINAL:
            assert all(gap["to"] for gap in gaps), gaps
        self.last = found

    async def until_stored(self, more_than: int, within: float = 20) -> dict[str, Any]:
        return await self._until(lambda found: found["progress"]["stored"] > more_than, f"{more_than} frames", within)

    async def final(self, within: float = 40) -> dict[str, Any]:
        return await self._until(lambda found: found["status"] in FINAL, "a final state", within)

    async def _until(self, check: Any, what: str, within: float) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            assert self._task is not None
            if self._task.done():
                self._task.result()
            return self.last if self.last and check(self.last) else None

        found: dict[str, Any] = await until(look, what, within, 0.02)
        return found


def assert_whole(found: dict[str, Any], frames: list[dict[str, Any]], slots: int, fps: float) -> list[int]:
    """Every slot has one frame at its time or lies in a gap and is counted as dropped; returns those without a frame."""
    progress = found["progress"]
    assert progress["expected"] == slots
    assert progress["stored"] == len(frames)
    sequences = [item["sequence"] for item in frames]
    assert sequences == sorted(set(sequences))
    assert len({item["frame_id"] for item in frames}) == len({item["storage_path"] for item in frames}) == len(frames)
    times = [seconds(item["timestamp"]) for item in frames]
    assert times == sorted(set(times))
    start = seconds(found["grid_start"])
    for item, at in zip(frames, times, strict=True):
        assert abs(at - start - item["sequence"] / fps) < 0.5 / fps + 0.15, item
    missing = sorted(set(range(slots)) - set(sequences))
    assert sum(progress["dropped"].values()) == len(missing)
    half = 0.5 / fps + 0.15
    for slot in missing:
        at = start + slot / fps
        covered = [gap for gap in progress["gaps"] if seconds(gap["from"]) - half <= at <= seconds(gap["to"]) + half]
        assert covered, f"slot {slot} is missing and in no gap: {progress}"
    return missing
