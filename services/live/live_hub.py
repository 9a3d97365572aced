"""All WebSockets of a process: their bound, their credentials, and the tail and the progress that they share."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Literal

from models.access import Principal
from models.values import LogFilter
from repositories.database import Database
from services.access.service import Access
from services.events.event_log import EventLog, Position
from services.live.live_session import LiveSession
from services.live.progress import ProgressWatch
from services.live.tail import Tail
from utils.exceptions import DatabaseUnavailable, Overloaded
from utils.metrics import WEBSOCKETS
from utils.periodic import PeriodicJob

WATCH_INTERVAL = 0.5  # seconds between two checks of the credentials of all sockets
BREATH = 100  # credentials that are checked before others have a turn on the event loop
CREDENTIAL_ENDED = 4401
TRY_AGAIN = 1013


class LiveHub:
    """One a process. On the event loop."""

    def __init__(self, database: Database, event_log: EventLog, access: Access, max_sockets: int) -> None:
        self._access, self._max = access, max_sockets
        self._tail = Tail(event_log)
        self._progress = ProgressWatch(database)
        self._sessions: dict[LiveSession, None] = {}
        self._jobs = [
            PeriodicJob("live-credentials", self._watch, lambda: WATCH_INTERVAL if self._sessions else math.inf),
            PeriodicJob("live-progress", self._progress.poll, self._progress.pause, wake=self._progress.wanted),
        ]

    def start(self) -> None:
        for job in self._jobs:
            job.start()

    async def stop(self) -> None:
        for job in self._jobs:
            await job.stop()
        for session in list(self._sessions):
            self.close(session)
        await self._tail.stop()

    def room(self) -> None:
        """Raises Overloaded at EVENTS__MAX_SOCKETS."""
        if len(self._sessions) >= self._max:
            raise Overloaded("EVENTS__MAX_SOCKETS WebSockets are open already. Try again.", retry_after=5)

    def open(self, who: Principal, send: Callable[[bytes], Awaitable[None]], end: Callable[[int, str], None]) -> LiveSession:
        """A session of a connection; `close` ends it. Raises Overloaded."""
        self.room()
        session = LiveSession(self._tail, who, send, end)
        if not self._sessions:
            self._jobs[0].wake()
        self._sessions[session] = None
        WEBSOCKETS.inc()
        return session

    def close(self, session: LiveSession) -> None:
        """Repeating it is fine."""
        if session not in self._sessions:
            return
        del self._sessions[session]
        WEBSOCKETS.dec()
        for subscription in session.subscriptions.values():
            self._progress.remove(subscription)
        session.close()

    async def subscribe(
        self, session: LiveSession, name: str, wanted: LogFilter, after: Position | Literal["oldest", "latest"], *,
        progress: bool,
    ) -> None:  # fmt: skip
        """Raises InvalidRequest, DatabaseUnavailable."""
        self._tail.start()  # reads nothing before the first subscription
        made = await session.subscribe(name, wanted, after)
        if progress and not made.ended:
            self._progress.add(made)

    def unsubscribe(self, session: LiveSession, name: str) -> None:
        """Raises InvalidRequest."""
        self._progress.remove(session.unsubscribe(name))

    async def _watch(self) -> None:
        """Ends the sockets of principals that may no longer do what they began. Those of one are checked once."""
        holders: dict[Principal, list[LiveSession]] = {}
        for session in self._sessions:
            holders.setdefault(session.who, []).append(session)
        if not holders:
            await self._tail.stop()
        for number, (who, sessions) in enumerate(holders.items()):
            if number % BREATH == BREATH - 1:
                await asyncio.sleep(0)
            code, reason = CREDENTIAL_ENDED, "credential ended"
            try:
                if await self._access.holds(who):
                    continue
            except DatabaseUnavailable:
                code, reason = TRY_AGAIN, "database unavailable"
            for session in sessions:
                session.end(code, reason)
