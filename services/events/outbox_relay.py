"""The relay: moves events from where their transactions wrote them into the one log (docs/rules.md, rule 12).

Each process runs one; an advisory lock in the database lets one at a time through, so any may die at any moment. Each poll
also says how far the log goes, whichever process moved the events: readers that wait (`LogHead`) need no query of their
own and hold no connection.

Between processes, by notices: one in which readers wait says so every second; the others then move what they commit at
once, and say so; the first one polls again. Where notices do not come, it polls ten times a second instead. What a process
left behind when it died is found by the others' heartbeats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

from repositories.database import Database
from repositories.event_log import EventLogRepository, Relayed
from services.execution.membership import RARELY
from services.execution.notices import EVENTS_CHANNEL, Notices
from utils.logger import get_logger
from utils.metrics import EVENT_RELAY_SECONDS, EVENTS_EXPIRED, EVENTS_RELAYED
from utils.periodic import PeriodicJob, wait_for

log = get_logger(__name__)

BATCH = 1000  # events moved, or removed, in one transaction
# Seconds between two polls. A transaction of this process leads to a poll after the shortest interval.
MIN_INTERVAL = 0.02  # while readers wait here: what is committed meanwhile is moved together
MIN_INTERVAL_UNREAD = 0.1  # while none does: a poll costs a tenth of an upload
MAX_INTERVAL = 0.1  # while readers wait here: other processes write too
MAX_INTERVAL_HEARD = 0.5  # the same where these say so: one of another version, or whose notice was lost, does not
MAX_INTERVAL_UNREAD = 1.0  # while none does; RARELY where each heartbeat says whether there is something
RETRY_INTERVAL = 1.0  # after the database was away
EXPIRE_INTERVAL = 60.0  # between two removals of old events
SAY_READ = 1.0  # between two notices that readers wait here
READ_FOR = 3.0  # that such a notice of another process holds


class LogHead:
    """How far the log goes, as far as this process knows. Belongs to the event loop."""

    def __init__(self) -> None:
        self.log_id: UUID | None = None
        self.seq = 0
        self.waiting = 0
        self.on_wait: Callable[[], None] = lambda: None  # called when the first one begins to wait
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
        if self.waiting == 1:
            self.on_wait()
        try:
            async with asyncio.timeout(seconds):
                while self.log_id in (None, log_id) and self.seq <= seq:
                    await self._moved.wait()
            return True
        except TimeoutError:
            return False
        finally:
            self.waiting -= 1


class OutboxRelay:
    """`retention`: seconds that events are kept."""

    def __init__(self, database: Database, head: LogHead, retention: float, notices: Notices | None = None) -> None:
        """`notices`: how it hears of other processes, and tells them; None: there are none."""
        self._notices = notices
        self._say_at = self._read_elsewhere_until = 0.0
        if notices is not None:
            notices.on(EVENTS_CHANNEL, self._on_notice)
            notices.when_heard(lambda: self._wake.set())
            notices.membership.when_found(lambda waiting: self._wake.set() if waiting.events else None)
        self._database = database
        self._head = head
        self._retention = retention
        self._expire_at = 0.0
        self._wake = asyncio.Event()
        self._resting = False  # in a pause that a reader who comes must not wait for
        self._job = PeriodicJob("event-relay", self._relay, RETRY_INTERVAL)

    def start(self) -> None:
        self._database.on_commit = self._wake.set
        self._head.on_wait = self._begins_to_wait
        self._job.start()

    async def stop(self) -> None:
        self._database.on_commit = self._head.on_wait = lambda: None
        await self._job.stop()

    # -- other processes -----------------------------------------------------------------------------------------

    def _begins_to_wait(self) -> None:
        if self._resting or asyncio.get_running_loop().time() >= self._say_at:
            self._wake.set()

    def _on_notice(self, payload: str) -> None:
        what, _, who = payload.partition(" ")
        if self._notices is None or who == self._notices.own:
            return
        if what == "read":
            self._read_elsewhere_until = asyncio.get_running_loop().time() + READ_FOR
        elif what == "moved" and self._head.waiting:
            self._wake.set()

    def _say_read(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._notices is not None and now >= self._say_at:
            self._say_at = now + SAY_READ
            self._notices.announce(EVENTS_CHANNEL, f"read {self._notices.own}")

    @property
    def _notified(self) -> bool:
        """Whether heartbeats find what others leave behind."""
        return self._notices is not None and self._notices.membership.notified

    @property
    def _read_elsewhere(self) -> bool:
        return asyncio.get_running_loop().time() < self._read_elsewhere_until

    async def _move(self, event_log: EventLogRepository) -> Relayed:
        if self._notices is not None and self._read_elsewhere:
            return await event_log.relay(BATCH, EVENTS_CHANNEL, f"moved {self._notices.own}")
        return await event_log.relay(BATCH)

    # -- relaying ------------------------------------------------------------------------------------------------

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
            done = await self._move(event_log)
            self._publish(done)
            await self._expire(event_log)
            if done.moved == BATCH:
                continue
            read = self._head.waiting > 0
            if read:
                self._say_read()
            await asyncio.sleep(MIN_INTERVAL if read or self._read_elsewhere else MIN_INTERVAL_UNREAD)
            heard = self._notices is not None and self._notices.heard
            longest = (MAX_INTERVAL_HEARD if heard else MAX_INTERVAL) if read else self._unread_pause()
            soon = longest if self._notified and not read else 2 * pause + MIN_INTERVAL
            pause = 0.0 if done.moved or done.busy else min(longest, soon)
            if not pause:
                continue
            self._resting = not read
            await wait_for(self._wake, pause)
            self._resting = False

    def _unread_pause(self) -> float:
        """The longest one while nobody reads here; removals of old events come in time."""
        if not self._notified:
            return MAX_INTERVAL_UNREAD
        return max(MAX_INTERVAL_UNREAD, min(RARELY, self._expire_at - asyncio.get_running_loop().time()))

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
