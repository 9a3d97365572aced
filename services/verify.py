"""Reads what is stored and says whether it is what was stored.

    python -m services.verify                       every stored frame
    python -m services.verify --sample 1000         so many, chosen at random
    python -m services.verify --share 0.01          about that share of them
    python -m services.verify --camera pit-lane-1 --since 2026-05-04T00:00:00Z
    python -m services.verify --orphans             objects without rows are counted too

Each object's bytes are read and hashed: a listing, a HEAD or an ETag proves nothing about them. Nothing is changed. It
works beside running services; a frame that is deleted meanwhile is no violation. With embedded parts (no DB__HOST or
STORAGE__ENDPOINT) those of the service that runs on DATA_DIR are asked; when none does, they are started for the check.

Standard output: one JSON object. Standard error: progress. Exit codes: 0 all is well, 1 a frame's object is missing or
not its own, 2 that could not be found out (settings, database or store; what was checked until then is in the JSON).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeVar

from pydantic import ValidationError
from pydantic_settings import SettingsError

from config import ConfigurationError, Settings, get_settings
from models.schemas import parse_time
from repositories.base import Key
from repositories.database import Database
from repositories.frames import Promise
from services.bucket_walk import age, compare, windows
from services.embedded_parts import StartError, reach
from services.storage_service import StorageService
from utils.exceptions import IngestionException, ObjectMissing
from utils.logger import configure_logging, get_logger

log = get_logger(__name__)

PAGE = 500  # rows at once
LISTED = 100  # violations that the answer names
TRIES = 4  # of one call while store or database is away
PAUSE = 1.0  # seconds before the second, twice as many before each further one
PROGRESS_EVERY = 5.0  # seconds
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
    """One check. On one event loop; `tell(report)` is called now and then."""

    def __init__(
        self, database: Database, storage: StorageService, wanted: Wanted, tell: Callable[[Report], None] = lambda _: None
    ) -> None:
        self._database = database
        self._storage = storage
        self._wanted = wanted
        self._tell = tell
        self.report = Report()

    async def run(self, grace_s: float) -> Report:
        """Never raises for a store or database that is away: the report's `error` says so."""
        began = told = time.monotonic()
        try:
            pending: set[asyncio.Task[None]] = set()
            async with asyncio.TaskGroup() as group:
                async for frame in self._frames():
                    if len(pending) >= self._wanted.concurrency:
                        _done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    pending.add(group.create_task(self._check(frame)))
                    if time.monotonic() - told > PROGRESS_EVERY:
                        told = time.monotonic()
                        self._tell(self.report)
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
            digest = await _again(lambda: self._storage.digest(frame.key))
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
        async def look() -> bool:
            async with self._database.unit_of_work() as uow:
                return await uow.frames.get_stored(frame.id) is not None

        return await _again(look)

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
            rows = await _again(lambda after=after: self._page(after))  # type: ignore[misc]
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


async def _again(work: Callable[[], Awaitable[T]]) -> T:
    """Tries again while store or database is away, TRIES times in all."""
    for attempt in range(1, TRIES + 1):
        try:
            return await work()
        except IngestionException as error:
            if not error.retryable or attempt == TRIES:
                raise
            await asyncio.sleep(PAUSE * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Database, StorageService]]:
    async with reach(settings) as effective:
        database, storage = Database(effective.DB, "trackshift-verify"), StorageService(effective.STORAGE)
        try:
            yield database, storage
        finally:
            await storage.close()
            await database.close()


def _progress(report: Report) -> None:
    print(f"{report.checked} checked, {report.missing} missing, {report.mismatched} mismatched", file=sys.stderr)


async def _run(settings: Settings, wanted: Wanted) -> Report:
    async with _opened(settings) as (database, storage):
        return await Verifier(database, storage, wanted, _progress).run(settings.SWEEPER.GRACE)


def _bounded(kind: type, low: float, high: float) -> Callable[[str], Any]:
    def parse(value: str) -> Any:
        number = kind(value)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"must be {low} to {high}")
        return number

    return parse


def _time(value: str) -> Any:
    try:
        return parse_time(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _arguments(arguments: list[str] | None) -> Wanted:
    parser = argparse.ArgumentParser(
        prog="python -m services.verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--sample", type=_bounded(int, 1, 100_000), help="so many frames, chosen at random")
    some.add_argument("--share", type=_bounded(float, 0, 1), help="about this share of the frames")
    parser.add_argument("--camera", dest="camera_id", help="only frames of this camera")
    parser.add_argument("--since", type=_time, help="only frames stored since then (RFC 3339)")
    parser.add_argument("--orphans", action="store_true", help="count objects without rows too")
    parser.add_argument("--concurrency", type=_bounded(int, 1, 64), default=4, help="objects read at once (4)")
    return Wanted(**vars(parser.parse_args(arguments)))


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    wanted = _arguments(arguments)  # wrong ones: exit code 2, by argparse
    configure_logging("WARNING", "console")
    try:
        report = asyncio.run(_run(get_settings(), wanted))
    except (ConfigurationError, StartError, ValidationError, SettingsError, IngestionException) as error:
        report = Report(error=str(error))
    except Exception as error:  # 1 would say that a frame is lost
        log.exception("verify_failed")
        report = Report(error=f"the check itself failed: {type(error).__name__}")
    print(json.dumps(asdict(report)))
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
