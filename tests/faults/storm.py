"""The frame of most scenarios: uploads and captures run, something breaks and is mended, everything is compared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from uuid import UUID

import asyncpg
from asyncpg.exceptions import InternalClientError

from tests.conftest import Service
from tests.faults.audit import audit
from tests.faults.workload import Captures, Uploaders
from tests.faults.world import Outcome, World, in_time

PATIENCE = 20.0  # seconds for which a takeover is watched
RECOVERY = 60.0  # seconds after the fault within which uploads are answered and frames stored again


class Strikes:
    """When those that run captures were hurt, and how long their captures had no other owner."""

    def __init__(self) -> None:
        self.moments: list[float] = []  # seconds since the epoch
        self._waiting: list[asyncio.Task[float]] = []

    async def add(self, world: World) -> None:
        connection = await world.connect()
        rows = await connection.fetch("SELECT request_id, epoch FROM capture_leases WHERE expires_at >= now()")
        self.moments.append(time.time())
        before = {row["request_id"]: row["epoch"] for row in rows}
        self._waiting.append(asyncio.create_task(self._takeover(connection, before)))

    async def _takeover(self, connection: asyncpg.Connection, before: Mapping[UUID, int]) -> float:
        """Seconds until the last capture that changed its owner had the new one; for PATIENCE, or to the next fault."""
        began, taken, number = time.monotonic(), dict[UUID, float](), len(self.moments)
        try:
            while (now := time.monotonic() - began) < PATIENCE and number == len(self.moments):
                rows = await connection.fetch("SELECT request_id, epoch FROM capture_leases WHERE owner IS NOT NULL")
                for row in rows:
                    if row["epoch"] > before.get(row["request_id"], row["epoch"]):
                        taken.setdefault(row["request_id"], now)
                await asyncio.sleep(0.02)
        except (
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            InternalClientError,
            OSError,
        ):  # PostgreSQL itself is what was hurt
            pass
        finally:
            connection.terminate()
        return max(taken.values(), default=0.0)

    async def settle(self) -> list[float]:
        """Those after which a capture had another owner."""
        return [took for took in await asyncio.gather(*self._waiting) if took]


class Storm:
    """A service under load. `break_and_mend` may replace `service` by another one."""

    def __init__(
        self, world: World, fault: str, *, clients: int, pause: float, captures: int, settings: Mapping[str, str],
        workers: int = 0,
    ) -> None:  # fmt: skip
        self.world = world
        self.outcome = Outcome(fault)
        self.service = world.service(**settings)
        self.services: list[Service] = [self.service]
        self.workers = [world.service(**{**settings, "ROLE": "worker"}) for _ in range(workers)]
        self.uploads: Uploaders | None = Uploaders(lambda: self.service.url, clients, pause) if clients else None
        self.captures: Captures | None = Captures(self._urls) if captures else None
        self._wanted = captures
        self._strikes = Strikes()

    def _urls(self) -> list[str]:
        return [each.url for each in self.services if each.url and each.process is not None and each.process.poll() is None]

    async def strike(self) -> None:
        """Whoever runs captures is hurt now: the takeover counts from here."""
        await self._strikes.add(self.world)

    async def start(self) -> None:
        for service in (self.service, *self.workers):
            await asyncio.to_thread(service.start)

    async def begin(self) -> None:
        await self.start()
        began, wall = time.monotonic(), time.time()
        if self.uploads is not None:
            self.uploads.start()
        if self.captures is not None:
            await self.captures.begin(self.world.camera.url, self._wanted, None)
        await in_time(lambda: self._goes_on(began, wall), "the load's beginning", RECOVERY)

    def _goes_on(self, moment: float, wall: float) -> bool:
        uploads, captures = self.uploads, self.captures
        return (uploads is None or uploads.since(moment) >= 3) and (
            captures is None or captures.frames_after(wall) >= 2 * len(captures.all)
        )

    async def recovered(self) -> None:
        """Waits until clients are served as before, counted from now."""
        moment, wall = time.monotonic(), time.time()
        await in_time(lambda: self._goes_on(moment, wall), "recovery", RECOVERY)
        if self.uploads is not None and (at := self.uploads.recovered_at(moment)) is not None:
            self.outcome.recover = max(self.outcome.recover, at - moment)
        if self.captures is not None and (at := self.captures.first_stored_after(wall)) is not None:
            self.outcome.recover = max(self.outcome.recover, at - wall)

    async def end(self, may_drop: frozenset[str]) -> Outcome:
        self.world.heal()
        self.outcome.takeovers = await self._strikes.settle()
        if self.captures is not None:
            await self.captures.cancel()
        if self.uploads is not None:
            await self.uploads.stop()
        if self.captures is not None:
            await self.captures.settle()
        for service in (*self.services, *self.workers):
            if service.process is not None and service.process.poll() is None:
                await asyncio.to_thread(service.stop)
        return await audit(self.world, self.outcome, self.uploads, self.captures, may_drop, self._strikes.moments)


async def storm(
    world: World,
    fault: str,
    rounds: int,
    break_and_mend: Callable[[Storm], Awaitable[None]],
    *,
    clients: int = 3,
    pause: float = 0.0,
    captures: int = 2,
    may_drop: str = "",
    program: str = "main.py",
    settings: Mapping[str, str] | None = None,
    workers: int = 0,
) -> Outcome:
    """`rounds` times: break, mend, recover. Raises AssertionError when it does not recover.

    `workers`: processes that capture beside the service, whose `settings` say then that it does not.
    `pause`: seconds that a client of the `clients` waits after each upload.
    `may_drop`: reasons, by comma, for which pictures may be given up under this fault; they are counted all the same.
    """
    made = Storm(world, fault, clients=clients, pause=pause, captures=captures, settings=settings or {}, workers=workers)
    made.service.program = program
    await made.begin()
    try:
        for _ in range(rounds):
            made.outcome.tried += 1
            await break_and_mend(made)
            await made.recovered()
    finally:
        outcome = await made.end(frozenset(may_drop.split(",")))
    return outcome
