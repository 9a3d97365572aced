"""What processes tell each other at once, by PostgreSQL's NOTIFY: a capture waits, a request has ended, events were moved.

A notice is a hint: the process's next heartbeat finds what it was about (`membership`), so one that is lost costs a second
or two and nothing else. Behind a pooler that lends no sessions, nobody hears anything, and each polls.

Each heartbeat gives a notice to its own process. A connection that brings none of them, as one that a firewall forgot, is
replaced. On the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from uuid import UUID

from repositories.database import Database
from services.execution.membership import Membership
from utils.exceptions import DatabaseUnavailable
from utils.logger import get_logger
from utils.tasks import cancel_all

log = get_logger(__name__)

LISTEN_AGAIN = 1.0  # seconds
STOP_TIMEOUT = 1.0  # seconds
MAX_ANNOUNCEMENTS = 256  # under way at once; what is beyond is found by a heartbeat
MAX_UNHEARD = 3  # heartbeats whose notice did not come: the connection is dead
HEARTBEAT = "heartbeat"
FINAL_CHANNEL = "trackshift_final"
BEGIN = "begin"  # what a process is told of a burst's group whose leases it was given
EVENTS_CHANNEL = "trackshift_events"


def channel_of(worker_id: UUID) -> str:
    """The channel on which a process is told of calls and answers."""
    return f"trackshift_{worker_id.hex}"


def site_channel(site: str) -> str:
    """The channel on which the processes of a site are told that there is something to claim."""
    return f"trackshift_site_{site}"


class Notices:
    """One a process. What is to be heard is said by `on` before `start`."""

    def __init__(self, database: Database, membership: Membership) -> None:
        self._database, self.membership = database, membership
        self.own = membership.worker_id.hex  # what says in a notice that it is this process's
        self._handlers: dict[str, Callable[[str], None]] = {}
        self._announcing: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Task[None] | None = None
        self._on_heard: list[Callable[[], None]] = []
        self._unheard = 0  # heartbeats since the last one whose notice came
        self._lost: asyncio.Event | None = None  # of the connection that there is

    @property
    def heard(self) -> bool:
        """Whether notices come."""
        return self.membership.hears

    def on(self, channel: str, handler: Callable[[str], None]) -> None:
        """`handler(payload)` is called with each notice of the channel, this process's own included."""
        self._handlers[channel] = handler

    def when_heard(self, callback: Callable[[], None]) -> None:
        """Called whenever notices begin to come: what was said before was not heard."""
        self._on_heard.append(callback)

    def start(self) -> None:
        if self._database.keeps_sessions:
            channel = channel_of(self.membership.worker_id)
            self._handlers[channel] = partial(self._on_own, self._handlers.get(channel))
            self.membership.notice, self.membership.on_heartbeat = (channel, HEARTBEAT), self._on_heartbeat
            self._listening = asyncio.create_task(self._listen(), name="notices")

    async def stop(self) -> None:
        """What is being announced has STOP_TIMEOUT: it says that captures were handed over."""
        if self._announcing:
            await asyncio.wait(self._announcing, timeout=STOP_TIMEOUT)
        await cancel_all(*self._announcing)
        if self._listening is not None:
            await cancel_all(self._listening)
        self.membership.hears, self.membership.notice = False, ("", "")

    def _on_own(self, handler: Callable[[str], None] | None, payload: str) -> None:
        if payload == HEARTBEAT:
            self._unheard = 0
        elif handler is not None:
            handler(payload)

    def _on_heartbeat(self) -> None:
        self._unheard += 1
        if self._unheard > MAX_UNHEARD and self._lost is not None:
            log.warning("notices_do_not_come")
            self._lost.set()

    def announce(self, channel: str, payload: str = "") -> None:
        """Says it to the other processes, if there are any; returns at once."""
        if self.membership.alone or len(self._announcing) >= MAX_ANNOUNCEMENTS:
            return
        task = asyncio.create_task(self._notify(channel, payload), name="announce")
        self._announcing.add(task)
        task.add_done_callback(self._announcing.discard)

    async def _notify(self, channel: str, payload: str) -> None:
        with suppress(DatabaseUnavailable):
            await self._database.calls.notify(channel, payload)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._database.listen(self._handlers) as lost:
                    self.membership.hears, self._lost, self._unheard = True, lost, 0
                    for callback in self._on_heard:
                        callback()
                    await lost.wait()
            except DatabaseUnavailable:
                pass
            except Exception:
                log.exception("notices_not_heard")
            self.membership.hears, self._lost = False, None
            await asyncio.sleep(LISTEN_AGAIN)
