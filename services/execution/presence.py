"""This process among the others of its deployment: its row in `workers`, and what it knows of the others' rows.

A row is written every BEAT_INTERVAL and ends ALIVE_SECONDS after the last time. Nothing is decided by these rows that has to
be right: who runs a capture is decided by its lease. On the event loop.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from config import VERSION, Role
from models.entities import Worker
from repositories.database import Database
from repositories.workers import Beat
from utils.exceptions import DatabaseUnavailable, WorkerNotFound
from utils.ids import new_id
from utils.logger import get_logger
from utils.metrics import CAPTURES_UNCLAIMABLE, WORKERS
from utils.periodic import PeriodicJob

log = get_logger(__name__)

BEAT_INTERVAL = 2.0  # seconds
ALIVE_SECONDS = 8.0  # after its last beat that a process counts as alive
LOOK_EVERY = 5  # beats between two looks for sites without a worker, and captures that nobody will claim


@dataclass(frozen=True, slots=True)
class Load:
    """How much a process runs."""

    captures: int
    streams: int


class Presence:
    """One a process. Raises DatabaseUnavailable."""

    def __init__(
        self, database: Database, role: Role, site: str, load: Callable[[], Load], on_drain: Callable[[], None]
    ) -> None:
        """`on_drain`: called once, when somebody wants this process to hand over what it runs."""
        self.worker_id = new_id()
        self.role, self.site = role, site
        self.host = socket.gethostname()[:60]
        self.draining = False
        self._database = database
        self._load = load
        self._on_drain = on_drain
        self._started_at = datetime.now(UTC)
        self._others: list[Worker] = []
        self._beats = 0
        self._job = PeriodicJob("presence", self._beat, BEAT_INTERVAL)

    @property
    def owner(self) -> str:
        """This process as the owner of leases: what comes last is its id."""
        return f"{self.host}:{os.getpid()}:{self.worker_id}"

    @property
    def captures_here(self) -> bool:
        """Whether this process runs captures, and takes new ones."""
        return self.role is not Role.API and not self.draining

    @property
    def alone(self) -> bool:
        """Whether no other process was alive at the last beat."""
        return not self._others

    async def open(self) -> None:
        """The first beat, and then one every BEAT_INTERVAL."""
        await self._beat()
        self._job.start()

    async def close(self) -> None:
        """Takes the row away, if the database is there."""
        await self._job.stop()
        with suppress(DatabaseUnavailable):
            async with self._database.one_statement(events=False) as uow:
                await uow.workers.leave(self.worker_id)

    async def all(self) -> list[Worker]:
        """All processes that are alive."""
        async with self._database.reading() as uow:
            return await uow.workers.alive(ALIVE_SECONDS)

    async def ask_to_drain(self, worker_id: UUID) -> None:
        """The process is to hand over what it runs, and to take nothing more. Raises WorkerNotFound."""

        async with self._database.unit_of_work(events=False) as uow:
            if await uow.workers.ask_to_drain(worker_id, ALIVE_SECONDS) is None:
                raise WorkerNotFound
            await uow.audit.write(worker_id, "worker.drain")
        if worker_id == self.worker_id:
            self.drain()

    def drain(self) -> None:
        """Hands over what this process runs; repeating it changes nothing."""
        if self.draining:
            return
        self.draining = True
        log.info("draining", worker_id=str(self.worker_id), role=self.role.value, site=self.site)
        self._on_drain()
        self._job.wake()

    async def _beat(self) -> None:
        load = self._load()
        own = Beat(
            self.worker_id, self.role.value, self.site, self.host, VERSION, self._started_at,
            load.captures, load.streams, self.draining,
        )  # fmt: skip
        async with self._database.one_statement(events=False) as uow:
            drain = await uow.workers.beat(own, ALIVE_SECONDS)
            rows = await uow.workers.alive(ALIVE_SECONDS)
            if self._beats % LOOK_EVERY == 0:
                self._tell(rows, await uow.workers.camera_sites(), await uow.workers.orphaned(ALIVE_SECONDS))
        self._beats += 1
        self._others = [row for row in rows if row.worker_id != self.worker_id]
        if drain:
            self.drain()

    def _tell(self, rows: list[Worker], sites: list[str], orphaned: dict[str, int]) -> None:
        """Sets the metrics; a site whose cameras no process captures has a 0 of its own."""
        found = Counter((row.role, row.site) for row in rows if not row.draining)
        WORKERS.clear()
        for site in sites:
            WORKERS.labels(role=Role.WORKER.value, site=site).set(0)
        for (role, site), count in found.items():
            WORKERS.labels(role=role, site=site).set(count)
        CAPTURES_UNCLAIMABLE.clear()
        for site in {*sites, *orphaned}:
            CAPTURES_UNCLAIMABLE.labels(site=site).set(orphaned.get(site, 0))
