"""Reads what is stored and says whether it is what was stored.

Each object's bytes are read and hashed: a listing, a HEAD or an ETag proves nothing about them. Nothing is changed. The
check works beside running services; a frame that is deleted meanwhile is no violation.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeVar

from models.access import ALL_CAMERAS
from repositories.base import Key
from repositories.database import Database
from repositories.frames import Promise
from services.housekeeping.bucket_walk import age, compare, windows
from services.storage_service.service import StorageService
from utils.exceptions import IngestionException, ObjectMissing
from utils.retrying import retry_unavailable

PAGE = 500  # rows at once
LISTED = 100  # violations that the answer names
PROGRESS_INTERVAL = 5.0  # seconds
Kind = Literal["ok", "missing", "size", "sha256", "gone"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be checked: all of it, `sample` frames, or a `share` of them."""

    sample: int | None = None
    share: float | None = None
    camera_id: str | None = None
    since: datetime | None = None
    orphans: bool = False
    concurrency: int = 4


@dataclass(slots=True)
class Report:
    """Counts of frames, and the first violations. `orphans`: objects older than SWEEPER__GRACE without a row."""

    checked: int = 0
    ok: int = 0
    missing: int = 0
    mismatched: int = 0
    gone: int = 0  # deleted while they were checked
    bytes_read: int = 0
    orphans: int | None = None
    violations: list[dict[str, Any]] = field(default_factory=list)
    violations_left_out: int = 0
    seconds: float = 0.0
    error: str | None = None  # why the check did not come to its end

    @property
    def exit_code(self) -> int:
        return 1 if self.missing or self.mismatched else 2 if self.error else 0


class Verifier:
    """One check. On one event loop; `progress(report)` is called every PROGRESS_INTERVAL seconds."""

    def __init__(
        self,
        database: Database,
        storage: StorageService,
        wanted: Wanted,
        progress: Callable[[Report], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._storage = storage
        self._wanted = wanted
        self._report_progress = progress
        self.report = Report()

    async def run(self, grace_s: float) -> Report:
        """Never raises for a store or database that is away: the report's `error` says so."""
        began = reported = time.monotonic()
        try:
            pending: set[asyncio.Task[None]] = set()
            async with asyncio.TaskGroup() as group:
                async for frame in self._frames():
                    if len(pending) >= self._wanted.concurrency:
                        _done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    pending.add(group.create_task(self._check(frame)))
                    if time.monotonic() - reported > PROGRESS_INTERVAL:
                        reported = time.monotonic()
                        self._report_progress(self.report)
            if self._wanted.orphans:
                self.report.orphans = await self._orphans(grace_s)
        except* IngestionException as errors:
            self.report.error = str(errors.exceptions[0])
        self.report.seconds = round(time.monotonic() - began, 3)
        return self.report

    async def _check(self, frame: Promise) -> None:
        kind, found = await self._judge(frame)
        report = self.report
        report.checked += 1
        if kind in ("ok", "gone"):
            report.ok += kind == "ok"
            report.gone += kind == "gone"
            return
        report.missing += kind == "missing"
        report.mismatched += kind != "missing"
        if len(report.violations) >= LISTED:
            report.violations_left_out += 1
            return
        report.violations.append(
            {
                "frame_id": str(frame.id), "kind": kind, "storage_path": frame.key,
                "expected": {"size_bytes": frame.size_bytes, "sha256": frame.sha256}, "found": found,
            }
        )  # fmt: skip

    async def _judge(self, frame: Promise) -> tuple[Kind, dict[str, Any] | None]:
        kind: Kind
        found: dict[str, Any] | None = None
        try:
            digest = await retry_unavailable(lambda: self._storage.digest(frame.key))
        except ObjectMissing:
            kind = "missing"
        else:
            self.report.bytes_read += digest.size
            found = {"size_bytes": digest.size, "sha256": digest.sha256}
            if digest.size == frame.size_bytes and digest.sha256 == frame.sha256:
                return "ok", None
            kind = "size" if digest.size != frame.size_bytes else "sha256"
        return (kind, found) if await self._still_stored(frame) else ("gone", None)

    async def _still_stored(self, frame: Promise) -> bool:
        async def stored() -> bool:
            async with self._database.unit_of_work() as uow:
                return await uow.frames.get_stored(frame.id, ALL_CAMERAS) is not None

        return await retry_unavailable(stored)

    async def _frames(self) -> AsyncIterator[Promise]:
        """The frames to check; a sample is chosen first, by one walk over all rows (reservoir), then read."""
        wanted = self._wanted
        if wanted.sample is None:
            async for frame in self._walk():
                if wanted.share is None or random.random() < wanted.share:  # noqa: S311
                    yield frame
            return
        chosen: list[Promise] = []
        count = 0
        async for frame in self._walk():
            count += 1
            if len(chosen) < wanted.sample:
                chosen.append(frame)
            elif (place := random.randrange(count)) < wanted.sample:  # noqa: S311
                chosen[place] = frame
        for frame in chosen:
            yield frame

    async def _walk(self) -> AsyncIterator[Promise]:
        after: Key | None = None
        while True:
            rows = await retry_unavailable(lambda after=after: self._page(after))  # type: ignore[misc]
            for row in rows:
                yield row
            if len(rows) < PAGE:
                return
            after = (rows[-1].stored_at, rows[-1].id)

    async def _page(self, after: Key | None) -> list[Promise]:
        wanted = self._wanted
        async with self._database.unit_of_work() as uow:
            return await uow.frames.by_age(after=after, limit=PAGE, camera_id=wanted.camera_id, since=wanted.since)

    async def _orphans(self, grace_s: float) -> int:
        count = 0
        async with aclosing(windows(self._database, self._storage)) as walk:
            async for window in walk:
                found = await compare(self._database, window)
                count += sum(age(item) > grace_s for item in found.orphans)
        return count
