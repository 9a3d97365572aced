"""This process among the others of its deployment: its row in `workers`, and what it knows of the others' rows.

A row is written every HEARTBEAT_INTERVAL and ends ALIVE_SECONDS after the last time. Nothing is decided by these rows that
has to be right: who runs a capture is decided by its lease. The statement that writes it also says what waits for this
process, whichever notice of it was lost (`when_found`), and gives a notice to this process itself (`notices`). On the event
loop.
"""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from config import VERSION, Role
from repositories.database import Database
from repositories.heartbeats import DeploymentOverview, Heartbeat, Peer, Waiting
from repositories.migrations.steps import revisions
from services.execution.health import Degraded
from utils.exceptions import DatabaseUnavailable, WorkerNotFound
from utils.ids import new_id
from utils.logger import get_logger
from utils.metrics import CAPTURES_UNCLAIMABLE, CODE, SCHEMA_AHEAD, WORKERS
from utils.periodic import PeriodicJob

log = get_logger(__name__)

HEARTBEAT_INTERVAL = 2.0  # seconds
ALIVE_SECONDS = 8.0  # after its last heartbeat that a process counts as alive
OVERVIEW_EVERY = 5  # heartbeats between two overviews: sites without a worker, captures that nobody will claim
RARELY = 10.0  # seconds between two polls for what this process is told of


def worker_of(owner: str) -> UUID:
    """The process that is named by an owner of leases."""
    return UUID(owner.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class Load:
    """How much a process runs."""

    captures: int
    streams: int
    cameras: dict[str, Any]  # the status of each camera's stream; empty where nobody reads it


class Membership:
    """One a process. Raises DatabaseUnavailable."""

    def __init__(
        self, database: Database, role: Role, site: str, lease_ttl: float, load: Callable[[], Load],
        on_drain: Callable[[], None],
    ) -> None:  # fmt: skip
        """`lease_ttl`: RTSP__LEASE_TTL, seconds. `on_drain`: called once, when this process is to hand over what it runs."""
        self.worker_id = new_id()
        self.role, self.site = role, site
        self.host = socket.gethostname()[:60]
        self.draining = False
        self._database = database
        self._load = load
        self._on_drain = on_drain
        self._started_at = datetime.now(UTC)
        self._lease_ttl = lease_ttl
        self.on_change: Callable[[], None] = lambda: None  # called when `peers` has changed
        self._misfit: str | None = None  # why this process does not join the others
        self._others: list[Peer] = []
        self._on_found: list[Callable[[Waiting], None]] = []
        self._heartbeats = 0
        self.hears = False  # whether notices come
        self.notice = ("", "")  # that each heartbeat gives: channel, payload
        self.on_heartbeat: Callable[[], None] = lambda: None  # called after each
        self.knows = revisions()[0]  # the schema's newest revision that this code knows
        self._schema = ""  # what there is to say of the schema
        self._labelled: set[tuple[str, str]] = set()  # roles and sites that the metrics have
        self._job = PeriodicJob("membership", self._heartbeat, self._pause)

    @property
    def owner(self) -> str:
        """This process as the owner of leases: what comes last is its id."""
        return f"{self.host}:{os.getpid()}:{self.worker_id}"

    @property
    def captures_here(self) -> bool:
        """Whether this process runs captures, and takes new ones."""
        return self.role is not Role.API and not self.draining and self._misfit is None

    @property
    def peers(self) -> int:
        """How many processes take captures at this site, this one included, as of the last heartbeat."""
        others = sum(1 for other in self._others if other.site == self.site and other.captures_there)
        return others + self.captures_here

    def serves(self, site: str) -> bool:
        """Whether this process captures cameras of the site."""
        return self.captures_here and site == self.site

    @property
    def alone(self) -> bool:
        """Whether no other process was alive at the last heartbeat."""
        return not self._others

    @property
    def notified(self) -> bool:
        """Whether what waits for this process is said to it: by notices, or by nobody, since it is alone. Then it polls
        RARELY; what was not heard is found by the next heartbeat."""
        return self.hears or self.alone

    def when_found(self, callback: Callable[[Waiting], None]) -> None:
        """Called with what each heartbeat found."""
        self._on_found.append(callback)

    async def open(self) -> None:
        """The first heartbeat, and then one every HEARTBEAT_INTERVAL."""
        await self._heartbeat()
        self._job.start()

    async def close(self) -> None:
        """Takes the row away, if the database is there."""
        await self._job.stop()
        with suppress(DatabaseUnavailable):
            async with self._database.one_statement(events=False) as uow:
                await uow.workers.remove(self.worker_id)

    def drained(self, worker_id: str) -> None:
        """Another process hands over: it takes no share any more, whatever its row told last."""
        self._others = [replace(each, draining=True) if str(each.worker_id) == worker_id else each for each in self._others]
        self.heartbeat_now()

    def heartbeat_now(self) -> None:
        """Writes the next heartbeat now: somebody says that there is something to read."""
        self._job.wake()

    async def check(self) -> str:
        """For /health. Raises Degraded while this process does not join the others."""
        if self._misfit is not None:
            raise Degraded(self._misfit)
        return f"{len(self._others)} other processes, {self.peers} capture at the site {self.site}"

    async def check_schema(self) -> str:
        """For /health."""
        return self._schema

    async def all(self) -> list[Peer]:
        """All processes that are alive."""
        return await self._database.heartbeats.alive(ALIVE_SECONDS)

    async def ask_to_drain(self, worker_id: UUID) -> None:
        """The process is to hand over what it runs, and to take nothing more. Raises WorkerNotFound."""
        async with self._database.unit_of_work(events=False) as uow:
            if await uow.workers.ask_to_drain(worker_id, ALIVE_SECONDS) is None:
                raise WorkerNotFound
            await uow.audit.write(worker_id, "worker.drain")
            await uow.workers.notify(f"trackshift_{worker_id.hex}", "drain")
        if worker_id == self.worker_id:
            self.drain()

    def stopping(self) -> None:
        """This process will stop. Where others capture at its site, they take its captures over from now on, while it still
        answers what it was asked."""
        if self.captures_here and self.peers > 1:
            self.drain()

    def drain(self) -> None:
        """Hands over what this process runs; repeating it changes nothing."""
        if self.draining:
            return
        self.draining = True
        log.info("draining", worker_id=str(self.worker_id), role=self.role.value, site=self.site)
        self._on_drain()
        self._job.wake()

    async def _heartbeat(self) -> None:
        load = self._load()
        own = Heartbeat(
            self.worker_id, self.role.value, self.site, self.host, VERSION, self._started_at,
            load.captures, load.streams, self.draining, self._misfit is None, self._lease_ttl,
            json.dumps(load.cameras), self.knows,
        )  # fmt: skip
        found, others = await self._database.heartbeats.write(own, ALIVE_SECONDS, *self.notice)
        before, self._others = self.peers, others
        self._compare()
        if self.peers != before:
            self.on_change()
        if found.drain:
            self.drain()
        self.on_heartbeat()
        for callback in self._on_found:
            callback(found)
        if self._heartbeats % OVERVIEW_EVERY == 0:
            overview = await self._database.heartbeats.overview(ALIVE_SECONDS)
            self._compare_schema(overview)
            self._set_metrics(overview)
        self._heartbeats += 1

    def _compare_schema(self, overview: DeploymentOverview) -> None:
        """Says how the schema stands to this code; a start has seen that they go together."""
        known, revision, made = revisions(), overview.revision, overview.made
        ahead = len(made) - 1 - made.index(self.knows) if self.knows in made else 0
        behind = known.index(revision) if revision in known else 0
        text = f"revision {revision}"
        if ahead:
            text += f", {ahead} steps newer than version {VERSION} knows ({self.knows}): they have only added to it"
        elif behind:
            text += f", version {VERSION} knows {self.knows}: what older processes use is not taken away yet"
        if text != self._schema:
            log.info("schema", revision=revision, knows=self.knows, ahead=ahead, behind=behind)
        self._schema = text
        CODE.labels(version=VERSION, revision=self.knows).set(1)
        SCHEMA_AHEAD.set(ahead - behind)

    def _pause(self) -> float:
        return HEARTBEAT_INTERVAL if self.alone else HEARTBEAT_INTERVAL / 2

    def _compare(self) -> None:
        """Whether this process's settings can live with those of the processes that were there before it."""
        others = [other for other in self._others if other.joined and other.started_at <= self._started_at]
        differs = next((other for other in others if other.lease_ttl != self._lease_ttl), None)
        misfit = None
        if differs is not None:
            misfit = (
                f"RTSP__LEASE_TTL is {self._lease_ttl:g} here and {differs.lease_ttl:g} on {differs.host}: this process "
                "claims no captures. Set the same in all processes"
            )
        if misfit != self._misfit:
            if misfit is not None:
                log.error("process_does_not_fit", reason=misfit, other=str(differs.worker_id) if differs else None)
            else:
                log.info("process_fits")
            self._misfit = misfit
            self._job.wake()

    def _set_metrics(self, overview: DeploymentOverview) -> None:
        """Sets the metrics; a site whose cameras no process captures has a 0 of its own."""
        found = Counter((row.role, row.site) for row in self._others if not row.draining and row.joined)
        if not self.draining and self._misfit is None:
            found[self.role.value, self.site] += 1
        orphaned = overview.orphaned
        self._labelled |= {*found, *((Role.WORKER.value, site) for site in {*overview.sites, *orphaned})}
        for role, site in self._labelled:  # those that are gone are 0 from now on
            WORKERS.labels(role=role, site=site).set(found[role, site])
        for site in {site for _, site in self._labelled}:
            CAPTURES_UNCLAIMABLE.labels(site=site).set(orphaned.get(site, 0))
