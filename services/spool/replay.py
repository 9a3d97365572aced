"""Spooled frames on their way into store and database, beside new work.

A request's oldest first, requests in round robin, a few at once; one at a time while new frames wait for the store. While
store or database is away one record is tried after the other with growing pauses. A record that can never be stored goes
to dead/ and blocks no other.

Each try PUTs under a new key: an earlier PUT under the old one may still be on its way, and may have been condemned.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from models.values import FrameRecord
from repositories.database import Database
from repositories.engine import sqlstate
from services.spool.index import SpoolEntry
from services.spool.record import DamagedRecord, SpoolRecord
from services.spool.spool import Spool
from services.storage_service.keys import with_fresh_key
from services.storage_service.service import StorageService
from utils.exceptions import DatabaseUnavailable, IngestionException
from utils.ids import frame_id
from utils.logger import Throttle, get_logger
from utils.metrics import FRAMES, SPOOL_REPLAYED
from utils.periodic import PeriodicJob
from utils.tasks import cancel_all

log = get_logger(__name__)

_POLL_INTERVAL = 5.0  # seconds between polls of the age of what is held
_FIRST_DELAY = 0.25  # seconds of the first pause after a failure
_RETRY_INTERVAL = 1.0  # seconds after a run that failed in an unforeseen way
_POSTPONE = 60.0  # seconds after which a record that failed in an unforeseen way is tried again
_KEYS = 5  # new keys for one record in one try, should the sweeper condemn them


class CannotBeStored(Exception):
    """The record's place is dead/. `reason` is its metric's label."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Replay:
    """Empties a spool. `busy` says whether new frames wait for the store. On the event loop."""

    def __init__(self, spool: Spool, database: Database, storage: StorageService, busy: Callable[[], bool]) -> None:
        self._spool = spool
        self._database = database
        self._storage = storage
        self._busy = busy
        self._grids: dict[UUID, datetime] = {}  # origins that hold, of requests in the spool
        self._delay = 0.0  # seconds between tries while store or database is away; 0: they are there
        self._running: set[asyncio.Task[None]] = set()
        self._job = PeriodicJob(
            "spool-replay", self._replay, _POLL_INTERVAL, retry_interval=_RETRY_INTERVAL, wake=spool.arrived
        )
        self._throttle = Throttle(10, time.monotonic)

    async def restore_grids(self) -> None:
        """Before captures are claimed: a grid that was never saved is that of the spooled frames, not a new one."""
        for request_id, grid_start in self._spool.grids.items():
            try:
                await self._grid(request_id, grid_start)
            except CannotBeStored:
                continue  # its records go to dead/ when they are replayed
            except DatabaseUnavailable:
                break  # set at the replay, unless the capture was faster
        self._spool.grids.clear()

    def start(self) -> None:
        self._job.start()

    async def stop(self) -> None:
        """What is not stored stays in the spool."""
        await self._job.stop()
        await cancel_all(*self._running)

    async def _replay(self) -> None:
        """Replays what is due, for at most _POLL_INTERVAL: while the store is away, what failed is due again and again."""
        spool = self._spool
        await spool.expire()
        await self._report_abandoned()
        until = time.monotonic() + _POLL_INTERVAL
        while time.monotonic() < until and (entry := spool.index.take(time.monotonic())) is not None:
            await self._room()
            if self._delay:
                await asyncio.sleep(self._delay * random.uniform(0.5, 1.0))  # noqa: S311
            task = asyncio.create_task(self._one(entry))
            self._running.add(task)
            task.add_done_callback(self._ended)
        self._grids = {key: grid for key, grid in self._grids.items() if spool.index.holds(key)}

    async def _room(self) -> None:
        """Waits until one more may be under way."""
        while self._running:
            limit = 1 if self._delay or self._busy() else self._spool.settings.REPLAY_CONCURRENCY
            if len(self._running) < limit:
                return
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._spool.arrived.set()  # what was put back is due again
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("replay_failed", exc_info=error)

    async def _one(self, entry: SpoolEntry) -> None:
        """One try of one record."""
        if entry.name not in self._spool.index:
            return  # dropped meanwhile
        try:
            outcome = await self._store(entry)
        except CannotBeStored as error:
            if entry.name not in self._spool.index:
                return
            names = {"ingestion_id": str(entry.request_id), "slot": entry.slot, "file": entry.name}
            log.error("spool_record_dead", reason=error.reason, **names)
            await self._spool.remove(entry, "dead", error.reason)
            return
        except asyncio.CancelledError:
            self._spool.index.back(entry)
            raise
        except IngestionException as error:  # store or database is away
            self._delay = min(max(_FIRST_DELAY, self._delay * 2), self._spool.settings.RETRY_MAX_DELAY)
            self._spool.index.back(entry)
            if (withheld := self._throttle.allow(error.code)) is not None:
                log.warning("replay_waits", reason=error.code, frames=len(self._spool.index), withheld=withheld)
            return
        except Exception:
            log.exception("replay_odd_failure", ingestion_id=str(entry.request_id), slot=entry.slot)
            self._spool.index.postpone(entry, time.monotonic() + _POSTPONE)
            return
        self._delay = 0.0
        SPOOL_REPLAYED.labels(outcome=outcome).inc()
        if outcome == "stored":
            FRAMES.labels(source="rtsp", outcome="stored").inc()
        await self._spool.remove(entry, outcome)

    async def _store(self, entry: SpoolEntry) -> str:
        """Stored, exists or surplus. Raises CannotBeStored, IngestionException."""
        try:
            record, data = await self._spool.pool.run(self._spool.folder.read, entry.name)
        except (DamagedRecord, FileNotFoundError):
            raise CannotBeStored("damaged") from None
        frame = await self._placed(record)
        for _ in range(_KEYS):
            try:
                attempt = with_fresh_key(frame)
            except ValueError:
                raise CannotBeStored("refused") from None
            await self._storage.put(attempt.storage_path, data, frame.content_type, frame.sha256)
            outcome = await self._record(attempt)
            if outcome == "late":
                raise CannotBeStored("late")  # the request ended, and never had this slot
            if outcome != "condemned":
                return outcome
        raise DatabaseUnavailable

    async def _placed(self, record: SpoolRecord) -> FrameRecord:
        """The frame in its slot on the grid that holds; by its capture time when it was numbered on another."""
        frame = record.frame
        grid_start = await self._grid(frame.request_id, record.grid_start)
        if grid_start == record.grid_start:
            return frame
        slot = round((frame.timestamp - grid_start).total_seconds() * record.fps)
        if slot < 0:
            raise CannotBeStored("no_slot")  # taken before the grid that holds began
        at = grid_start + timedelta(seconds=slot / record.fps)
        return replace(frame, sequence=slot, frame_id=frame_id(frame.request_id, slot, at.astimezone(UTC)))

    async def _grid(self, request_id: UUID, otherwise: datetime) -> datetime:
        if (known := self._grids.get(request_id)) is not None:
            return known
        async with self._database.unit_of_work() as uow:
            found = await uow.requests.adopt_grid(request_id, otherwise)
        if found is None:
            raise CannotBeStored("no_request")
        self._grids[request_id] = found
        return found

    async def _record(self, frame: FrameRecord) -> str:
        """Raises CannotBeStored when PostgreSQL refuses the frame for good."""
        try:
            async with self._database.one_statement() as uow:
                (recorded,) = await uow.ledger.record(frame.request_id, [frame], {}, frame.sequence + 1)
        except Exception as error:
            state = sqlstate(error)
            if state == "23503":
                raise CannotBeStored("no_request") from None
            if state.startswith(("22", "23")):
                raise CannotBeStored("refused") from error
            raise
        return recorded.outcome

    async def _report_abandoned(self) -> None:
        """Slots of records that went without being stored are spool_full, where they were `spooled`."""
        while (found := self._spool.take_abandoned()) is not None:
            try:
                async with self._database.one_statement() as uow:
                    await uow.ledger.abandon(*found)
            except DatabaseUnavailable:
                self._spool.give_back_abandoned(*found)
                return
