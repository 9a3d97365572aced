"""The relay: moves events from where their transactions wrote them into the one log (DESIGN, rule 12).

Each process runs one; an advisory lock in the database lets one at a time through, so any may die at any moment. Its poll
tells this process how far the log goes, whoever moved the events: readers that wait (`LogHead`) need no query of their own
and hold no connection.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import UUID

from repositories.database import Database
from repositories.event_log import EventLogRepository, Relayed
from utils.exceptions import DatabaseUnavailable
from utils.logger import get_logger
from utils.metrics import EVENT_RELAY_SECONDS, EVENTS_EXPIRED, EVENTS_RELAYED

log = get_logger(__name__)

BATCH = 1000  # events moved, or removed, in one transaction
GAP = 0.02  # seconds between two polls at the least, while somebody here waits: what is committed meanwhile goes together
QUIET_GAP = 0.1  # the same while nobody does: a poll costs a tenth of an upload
WATCHED = 0.1  # seconds between polls while somebody here waits (whose read woke the relay): others write too
IDLE = 1.0  # seconds between polls otherwise; a transaction of this process is followed by a poll at once
AWAY = 1.0  # seconds until a database that is away is tried again
SWEEP_EVERY = 60.0  # seconds


class LogHead:
    """How far the log goes, as far as this process knows. Belongs to the event loop."""

    def __init__(self) -> None:
        self.log_id: UUID | None = None
        self.seq = 0
        self.waiting = 0
        self._moved = asyncio.Event()

    def publish(self, log_id: UUID, seq: int) -> None:
        """Wakes whoever waits, if it is news."""
        if (log_id, seq) != (self.log_id, self.seq):
            self.log_id, self.seq = log_id, seq
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()

    async def beyond(self, log_id: UUID, seq: int, seconds: float) -> bool:
        """Waits until the log goes beyond (log_id, seq) or is another one; False when it does not in time."""
        self.waiting += 1
        try:
            async with asyncio.timeout(seconds):
                while self.log_id in (None, log_id) and self.seq <= seq:
                    await self._moved.wait()
            return True
        except TimeoutError:
            return False
        finally:
            self.waiting -= 1


class Relay:
    """`retention`: seconds that events are kept."""

    def __init__(self, database: Database, head: LogHead, retention: float) -> None:
        self._database = database
        self._head = head
        self._retention = retention
        self._sweep_at = 0.0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._database.on_commit = self._wake.set
        self._task = asyncio.create_task(self._run(), name="event-relay")

    async def stop(self) -> None:
        self._database.on_commit = lambda: None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                # Kept open: each statement is a transaction by itself, and a session for each would cost as much again.
                async with self._database.one_statement() as uow:
                    await self._follow(uow.event_log)
            except DatabaseUnavailable:
                pass  # logged where it happened; what is pending stays pending
            except Exception:
                log.exception("event_relay_failed")
            await asyncio.sleep(AWAY)

    async def _follow(self, outbox: EventLogRepository) -> None:
        pause = 0.0
        while True:
            self._wake.clear()
            done = await outbox.relay(BATCH)
            self._tell(done)
            await self._sweep(outbox)
            if done.moved == BATCH:
                continue
            await asyncio.sleep(GAP if self._head.waiting else QUIET_GAP)
            longest = WATCHED if self._head.waiting else IDLE
            pause = 0.0 if done.moved or done.busy else min(longest, 2 * pause + GAP)
            if not pause:
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    def _tell(self, done: Relayed) -> None:
        self._head.publish(done.log_id, done.head)
        if done.moved:
            EVENTS_RELAYED.inc(done.moved)
            EVENT_RELAY_SECONDS.observe(done.waited)

    async def _sweep(self, outbox: EventLogRepository) -> None:
        """One batch of what retention has passed, so that relaying never waits for a long removal."""
        now = asyncio.get_running_loop().time()
        if now < self._sweep_at:
            return
        gone = await outbox.expire(self._retention, BATCH)
        EVENTS_EXPIRED.inc(gone)
        if gone < BATCH:
            self._sweep_at = now + min(SWEEP_EVERY, self._retention / 10)
