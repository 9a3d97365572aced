"""The frame of most scenarios: uploads and captures run, something breaks and is mended, everything is compared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from tests.conftest import Service
from tests.faults.audit import audit
from tests.faults.workload import Captures, Uploaders
from tests.faults.world import Outcome, World, in_time

RECOVERY = 60.0  # seconds after the fault within which uploads are answered and frames stored again


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
        self._struck: list[float] = []

    def _urls(self) -> list[str]:
        return [each.url for each in self.services if each.url and each.process is not None and each.process.poll() is None]

    def strike(self) -> None:
        """Whoever runs captures is hurt now: the takeover counts from here."""
        self._struck.append(time.time())

    async def begin(self) -> None:
        for service in (self.service, *self.workers):
            await asyncio.to_thread(service.start)
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
        if self.captures is not None:
            await self.captures.cancel()
        if self.uploads is not None:
            await self.uploads.stop()
        if self.captures is not None:
            await self.captures.settle()
        for service in (*self.services, *self.workers):
            if service.process is not None and service.process.poll() is None:
                await asyncio.to_thread(service.stop)
        return await audit(self.world, self.outcome, self.uploads, self.captures, may_drop, self._struck)


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
