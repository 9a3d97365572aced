"""Frames that cannot be stored now, on disk until they can: bounded, fsynced, outliving the process.

`record` is a frame's file, `folder` the files, `index` what is held, `Spool` (here) the limits, `replay` the way out.
A record is written in whole before `put` says so. It leaves by being stored, because its slot has a frame already, by
the policy at a limit, or into dead/. Captures that follow their request are notified of each of these.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from config import SpoolSettings
from models.values import FrameRecord
from services.spool.folder import Files, SpoolFolder, entry_of
from services.spool.index import SpoolEntry, SpoolIndex
from services.spool.record import SpoolRecord, encode
from utils.logger import Throttle, get_logger
from utils.metrics import SPOOL_BYTES, SPOOL_DEAD, SPOOL_DROPPED, SPOOL_FRAMES, SPOOL_OLDEST, SPOOL_WRITTEN, follow
from utils.pool import WorkerPool

log = get_logger(__name__)

_THREADS = 2
_FULL_FOR = 30.0  # seconds after a refusal that the spool counts as full
_ABANDONED = 100_000  # slots whose loss is still to be reported to the database
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

Follower = Callable[[int, str], None]
"""Called on the event loop with a slot and what became of its record: spooled, stored, exists, surplus, dropped, dead."""


@dataclass(frozen=True, slots=True)
class SpoolState:
    """What health and metrics show."""

    frames: int
    bytes: int
    oldest: float  # seconds that the oldest record has waited
    full: bool


class Spool:
    """The spool of a process. On the event loop; files are touched in `_THREADS` threads."""

    def __init__(
        self, settings: SpoolSettings, path: Path, *, files: Files | None = None, now: Callable[[], float] = time.time
    ) -> None:
        """`now`: wall-clock seconds, by which records age, also over a restart."""
        self.settings = settings
        self.index = SpoolIndex()
        self.grids: dict[UUID, datetime] = {}  # of requests that had records at the start: their grids' origins
        self.arrived = asyncio.Event()
        self.folder = SpoolFolder(path, files)
        self.pool = WorkerPool("spool", _THREADS)
        self._now = now
        self._throttle = Throttle(10, time.monotonic)
        self._dead: dict[str, int] = {}  # name: bytes, oldest first
        self._dead_bytes = 0
        self._reserved = 0  # bytes of records being written
        self._writes: set[asyncio.Task[bool]] = set()
        self._followers: dict[UUID, list[Follower]] = {}
        self._abandoned: dict[UUID, set[int]] = {}
        self._refused_at = float("-inf")

    async def open(self) -> None:
        """Scans the folder: what a killed process left is replayed. Raises OSError."""
        await self.pool.run(self.folder.open)
        for name, size in await self.pool.run(self.folder.scan_dead):
            self._dead[name] = size
            self._dead_bytes += size
        found = await self.pool.run(self.folder.scan)
        for entry, record in found.entries:
            self.index.add(entry)
            self.grids.setdefault(entry.request_id, record.grid_start)
        SPOOL_DROPPED.labels(reason="half_written").inc(found.half_written)
        SPOOL_DEAD.labels(reason="damaged").inc(found.damaged)
        follow(SPOOL_OLDEST, lambda: self.state().oldest)
        self._measure()
        if len(self.index) or found.half_written or found.damaged:
            log.info(
                "spool_found", frames=len(self.index), requests=len(self.index.requests),
                half_written=found.half_written, damaged=found.damaged,
            )  # fmt: skip
            self.arrived.set()

    async def close(self) -> None:
        """Ends the writes that run."""
        if self._writes:
            await asyncio.wait(self._writes)
        await self.pool.close()
        follow(SPOOL_OLDEST, lambda: 0)

    def state(self) -> SpoolState:
        oldest, now = self.index.oldest, self._now()
        age = max(0.0, now - oldest.spooled_at) if oldest is not None else 0.0
        full = time.monotonic() - self._refused_at < _FULL_FOR
        return SpoolState(len(self.index), self.index.bytes, age, full)

    # -- in ----------------------------------------------------------------------------------------------------

    async def put(self, frame: FrameRecord, data: bytes, *, grid_start: datetime, fps: float, epoch: int) -> bool:
        """Whether the frame is in the spool, on disk for good. Cancelling the call does not take it back."""
        if self._reserved + len(data) > self.settings.BUFFER:
            self._refuse("busy")  # the disk is slower than what comes in
            return False
        record = SpoolRecord(frame, grid_start, fps, epoch, datetime.fromtimestamp(self._now(), UTC))
        head = encode(record, data)
        name = f"{frame.request_id.hex}-{frame.sequence:010d}-{secrets.token_hex(4)}"
        entry = entry_of(name, record, len(head) + len(data))
        self._reserved += entry.cost
        task = asyncio.create_task(self._write(entry, (head, data)))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return await asyncio.shield(task)

    async def _write(self, entry: SpoolEntry, parts: tuple[bytes, ...]) -> bool:
        try:
            for attempt in (1, 2):
                if not await self._room_for():
                    return False
                try:
                    await self.pool.run(self.folder.write, entry.name, parts, self.settings.DISK_RESERVE)
                    break
                except OSError as error:
                    full = error.errno in _NO_SPACE
                    if full and attempt == 1 and await self._free_disk(entry.cost):
                        continue
                    self._refuse("disk" if full else "error", error.strerror)
                    return False
        finally:
            self._reserved -= entry.cost
        self.index.add(entry)
        SPOOL_WRITTEN.inc()
        self._measure()
        self.arrived.set()
        self._notify(entry, "spooled")
        return True

    def _refuse(self, reason: str, why: str | None = None) -> None:
        self._refused_at = time.monotonic()
        SPOOL_DROPPED.labels(reason=reason).inc()
        if (withheld := self._throttle.allow(reason)) is not None:
            log.error("spool_refuses", reason=reason, error=why, frames=len(self.index), withheld=withheld)

    # -- limits ------------------------------------------------------------------------------------------------

    async def _room_for(self) -> bool:
        """Makes room within MAX_BYTES and MAX_AGE as the policy says; what is being written is counted."""
        limit, drop_oldest = self.settings.MAX_BYTES, self.settings.POLICY == "drop_oldest"
        while (total := self.index.bytes + self._reserved) + self._dead_bytes > limit and self._dead:
            await self._drop_dead()
        if drop_oldest:
            await self.expire()
            while self.index.bytes + self._reserved > limit and (oldest := self.index.oldest) is not None:
                await self.remove(oldest, "dropped", "bytes")
            if self._reserved <= limit:
                return True
        elif total <= limit and self.state().oldest <= self.settings.MAX_AGE:
            return True
        self._refuse("bytes" if total > limit else "age")
        return False

    async def expire(self) -> None:
        """Policy drop_oldest: records older than MAX_AGE go. With drop_newest they stay, and none comes in."""
        if self.settings.POLICY != "drop_oldest":
            return
        while (oldest := self.index.oldest) is not None and self.state().oldest > self.settings.MAX_AGE:
            await self.remove(oldest, "dropped", "age")

    async def _free_disk(self, wanted: int) -> bool:
        """Whether anything was given up for `wanted` bytes of a disk that is full."""
        freed = 0
        while freed < wanted and self._dead:
            freed += await self._drop_dead()
        if self.settings.POLICY == "drop_oldest":
            while freed < wanted and (oldest := self.index.oldest) is not None:
                freed += oldest.cost
                await self.remove(oldest, "dropped", "disk")
        return freed > 0

    async def _drop_dead(self) -> int:
        name = next(iter(self._dead))
        size = self._dead.pop(name)
        self._dead_bytes -= size
        await self.pool.run(self.folder.remove_dead, name)
        return size

    # -- out ---------------------------------------------------------------------------------------------------

    async def remove(self, entry: SpoolEntry, outcome: str, reason: str = "") -> None:
        """Takes a record out: stored, exists, surplus, dropped (`reason`) or dead (`reason`: its file is kept aside)."""
        if not self.index.remove(entry):
            return
        if outcome == "dead":
            SPOOL_DEAD.labels(reason=reason).inc()
            self._dead[entry.name] = entry.size
            self._dead_bytes += entry.size
        elif outcome == "dropped":
            self._refused_at = time.monotonic()
            SPOOL_DROPPED.labels(reason=reason).inc()
        if outcome in ("dead", "dropped") and sum(map(len, self._abandoned.values())) < _ABANDONED:
            self._abandoned.setdefault(entry.request_id, set()).add(entry.slot)
            self.arrived.set()  # it is to be reported to the database
        self._measure()
        self._notify(entry, outcome)
        try:
            await self.pool.run(self.folder.bury if outcome == "dead" else self.folder.remove, entry.name)
        except OSError as error:  # it comes back with the next start, and is found stored, or dead, again
            log.error("spool_file_stays", reason=error.strerror, outcome=outcome)

    def take_abandoned(self) -> tuple[UUID, set[int]] | None:
        """Slots of one request whose records were removed without being stored: its row is still to say so."""
        return self._abandoned.popitem() if self._abandoned else None

    def give_back_abandoned(self, request_id: UUID, slots: set[int]) -> None:
        """The database was away: they are still to be reported."""
        self._abandoned.setdefault(request_id, set()).update(slots)

    # -- followers ---------------------------------------------------------------------------------------------

    def follow(self, request_id: UUID, follower: Follower) -> set[int]:
        """Notifies `follower` of the request's records from now on; returns the slots of those that are here."""
        self._followers.setdefault(request_id, []).append(follower)
        return self.index.slots_of(request_id)

    def unfollow(self, request_id: UUID, follower: Follower) -> None:
        followers = self._followers.get(request_id, [])
        if follower in followers:
            followers.remove(follower)
        if not followers:
            self._followers.pop(request_id, None)

    def _notify(self, entry: SpoolEntry, outcome: str) -> None:
        for follower in list(self._followers.get(entry.request_id, ())):
            follower(entry.slot, outcome)

    def _measure(self) -> None:
        SPOOL_FRAMES.set(len(self.index))
        SPOOL_BYTES.set(self.index.bytes)
