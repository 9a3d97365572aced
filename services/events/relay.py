"""The relay: moves events from where their transactions wrote them into the one log (docs/rules.md, rule 12).

Each process runs one; an advisory lock in the database lets one at a time through, so any may die at any moment. Each poll
also says how far the log goes, whichever process moved the events: readers that wait (`LogHead`) need no query of their
own and hold no connection.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

from repositories.database import Database
from repositories.event_log import EventLogRepository, Relayed
from utils.logger import get_logger
from utils.metrics import EVENT_RELAY_SECONDS, EVENTS_EXPIRED, EVENTS_RELAYED
from utils.periodic import PeriodicJob, wait_for

log = get_logger(__name__)

BATCH = 1000  # events moved, or removed, in one transaction
# Seconds between two polls. A transaction of this process leads to a poll after the shortest interval.
MIN_INTERVAL = 0.02  # while readers wait here: what is committed meanwhile is moved together
MIN_INTERVAL_UNREAD = 0.1  # while none does: a poll costs a tenth of an upload
MAX_INTERVAL = 0.1  # while readers wait here: other processes write too
MAX_INTERVAL_UNREAD = 1.0
RETRY_INTERVAL = 1.0  # after the database was away
EXPIRE_INTERVAL = 60.0  # between two removals of old events


class LogHead:
    """How far the log goes, as far as this process knows. Belongs to the event loop."""

    def __init__(self) -> None:
        self.log_id: UUID | None = None
        self.seq = 0
        self.waiting = 0
        self._moved = asyncio.Event()

    def publish(self, log_id: UUID, seq: int) -> None:
        """Wakes the readers that wait, if the log has moved."""
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
        self._expire_at = 0.0
        self._wake = asyncio.Event()
        self._job = PeriodicJob("event-relay", self._relay, RETRY_INTERVAL)

    def start(self) -> None:
        self._database.on_commit = self._wake.set
        self._job.start()

    async def stop(self) -> None:
        self._database.on_commit = lambda: None
        await self._job.stop()

    async def _relay(self) -> None:
        """Polls until the database is away; what is pending stays pending. Raises DatabaseUnavailable.

        The session is kept open: each statement is a transaction by itself, and a session for each would cost as much again.
        """
        async with self._database.one_statement() as uow:
            await self._poll(uow.event_log)

    async def _poll(self, event_log: EventLogRepository) -> None:
        pause = 0.0
        while True:
            self._wake.clear()
            done = await event_log.relay(BATCH)
            self._publish(done)
            await self._expire(event_log)
            if done.moved == BATCH:
                continue
            read = self._head.waiting > 0
            await asyncio.sleep(MIN_INTERVAL if read else MIN_INTERVAL_UNREAD)
            longest = MAX_INTERVAL if read else MAX_INTERVAL_UNREAD
            pause = 0.0 if done.moved or done.busy else min(longest, 2 * pause + MIN_INTERVAL)
            if not pause:
                continue
            await wait_for(self._wake, pause)

    def _publish(self, done: Relayed) -> None:
        self._head.publish(done.log_id, done.head)
        if done.moved:
            EVENTS_RELAYED.inc(done.moved)
            EVENT_RELAY_SECONDS.observe(done.waited)

    async def _expire(self, event_log: EventLogRepository) -> None:
        """One batch of what retention has passed, so that relaying never waits for a long removal."""
        now = asyncio.get_running_loop().time()
        if now < self._expire_at:
            return
        gone = await event_log.expire(self._retention, BATCH)
        EVENTS_EXPIRED.inc(gone)
        if gone < BATCH:
            self._expire_at = now + min(EXPIRE_INTERVAL, self._retention / 10)
