"""Access control of a process: `Access.open`, then who calls (`credentials`) and browser sessions. Its parts: tickets, rate
limits, shares.

Beside the requests, periodic jobs read whether keys and sessions have changed, and write what has gathered; a task listens
for the database's notifications, which only make the reading come sooner.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from config import Settings
from models.access import ANONYMOUS, Actor, Principal
from repositories.access.state import CHANNEL
from repositories.database import Database
from services.access.credentials import CredentialCheck
from services.access.cursors import Cursors
from services.access.rate_limits import RateLimits
from services.access.refusals import Refusals
from services.access.shares import Shares
from services.access.tickets import Tickets
from utils.exceptions import DatabaseUnavailable, Unauthorized
from utils.logger import get_logger
from utils.periodic import PeriodicJob
from utils.tasks import cancel_all

if TYPE_CHECKING:
    from services.redis.link import RedisLink

log = get_logger(__name__)

POLL_INTERVAL = 0.5  # seconds; credentials.CONFIRMED_FOR is longer
POLL_TIMEOUT = 2.0  # seconds
WATCH_INTERVAL = 0.25  # seconds between checks of the credential of work that lasts
USED_INTERVAL = 5.0  # seconds between writings of `last_used_at`
SWEEP_INTERVAL = 300.0  # seconds between removals of old sessions and audit rows
BATCH = 1000
LISTEN_AGAIN = 5.0  # seconds


class Access:
    """One a process. `on`: whether credentials are asked for (AUTH__MODE)."""

    def __init__(self, settings: Settings, database: Database, cursor_key: bytes, redis: RedisLink | None = None) -> None:
        self.settings = settings
        self.on = settings.AUTH.MODE != "off"
        self._database = database
        tokens = None
        if settings.AUTH.MODE in ("jwt", "both"):
            # Late: joserfc and the parts of cryptography that it imports are 0.1 s of CPU, and only JWTs need them.
            from services.access.jwts import TokenVerifier

            tokens = TokenVerifier(settings.AUTH)
        self.credentials = CredentialCheck(settings, database, tokens)
        self.tickets = Tickets(database, self.credentials, on=self.on)
        self.cursors = Cursors(cursor_key)
        self.rates = RateLimits(settings.LIMITS, redis, cursor_key[:64])
        self.shares = Shares(settings.LIMITS.SHARE if self.on else 1.0)
        self.refusals = Refusals(database, settings.AUDIT.RETENTION)
        self._polling = PeriodicJob("access", self._poll, POLL_INTERVAL)
        self._jobs = [
            self._polling,
            PeriodicJob("access-used", self._write_used, USED_INTERVAL, at_start=False),
            PeriodicJob("access-sweep", self._sweep, SWEEP_INTERVAL, at_start=False),
        ]
        self._listening: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, settings: Settings, database: Database, redis: RedisLink | None = None) -> Access:
        """Raises DatabaseUnavailable."""
        async with database.one_statement(events=False) as uow:
            state = await uow.access_state.read()
        return cls(settings, database, state.cursor_key, redis)

    def start(self) -> None:
        if self.on:
            for job in self._jobs:
                job.start()
            self._listening = asyncio.create_task(self._listen(), name="access-listen")

    async def stop(self) -> None:
        if self._listening is not None:
            await cancel_all(self._listening)
        for job in self._jobs:
            await job.stop()
        if self.on:
            with suppress(DatabaseUnavailable, TimeoutError):
                async with asyncio.timeout(2):
                    await self.refusals.flush()

    # -- browser sessions --------------------------------------------------------------------------------------

    async def open_session(self, credential: str, actor: Actor) -> tuple[str, datetime]:
        """(the cookie's value, its end) of a session for a credential. Raises Unauthorized, DatabaseUnavailable.

        `actor`: who is written down, its principal's part filled in here.
        """
        if not self.on:
            raise Unauthorized("Access control is off: no session is needed.")
        who = await self.credentials.identify(credential)
        value = secrets.token_urlsafe(32)
        expires = datetime.now(UTC) + timedelta(seconds=self.settings.AUTH.SESSION_TTL)
        expires = min(expires, who.expires_at or expires)
        row = self.credentials.session_row(credential, who, value, expires)
        named = Actor(
            actor.request, who.subject, who.kind, actor.address, actor.trace_id, actor.status, actor.action, actor.keep
        )
        async with self._database.unit_of_work(events=False) as uow:
            await uow.browser_sessions.create(row)
            await uow.audit.note(named, None, "session.create")
        return value, expires

    async def end_session(self, who: Principal) -> None:
        """Ends the principal's browser session, in every process. Raises DatabaseUnavailable."""
        if who.session_id is not None:
            async with self._database.unit_of_work(events=False) as uow:
                await uow.browser_sessions.end(who.session_id)
                await uow.audit.write(None, "session.delete")
            self.credentials.doubt()

    # -- work that lasts ---------------------------------------------------------------------------------------

    async def ended(self, who: Principal) -> None:
        """Returns when the principal may no longer do what it began: revoked, expired, or with other scopes or cameras.

        A database that is away ends nothing by itself for some seconds: what cannot be renewed then is ended too.
        """
        if who is ANONYMOUS or not self.on:
            await asyncio.Event().wait()
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            try:
                if not await self.holds(who):
                    return
            except DatabaseUnavailable:
                return

    async def holds(self, who: Principal) -> bool:
        """Whether the principal may still do what it began. Raises DatabaseUnavailable when that cannot be known."""
        if who is ANONYMOUS or not self.on:
            return True
        try:
            now = await self.credentials.renewed(who)
        except Unauthorized:
            return False
        return (now.scopes, now.cameras) == (who.scopes, who.cameras)

    # -- beside the requests -----------------------------------------------------------------------------------

    async def _poll(self) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(POLL_TIMEOUT), self._database.one_statement(events=False) as uow:
                state = await uow.access_state.read()
        except TimeoutError:
            raise DatabaseUnavailable from None  # rows are no longer confirmed
        self.credentials.confirm(state.version, began)
        await self.refusals.flush()

    async def _write_used(self) -> None:
        used, self.credentials.used = self.credentials.used, set()
        if used:
            async with self._database.unit_of_work(events=False) as uow:
                await uow.api_keys.set_used(sorted(used))

    async def _sweep(self) -> None:
        async with self._database.unit_of_work(events=False) as uow:
            await uow.browser_sessions.expire(BATCH)
            await uow.ws_tickets.expire(BATCH)
            await uow.audit.expire(BATCH)

    async def _listen(self) -> None:
        """Hears of changes at once; where the pooler lends no session, the poll alone finds them."""
        while self._database.keeps_sessions:
            try:
                async with self._database.notifications(CHANNEL, self._on_change) as lost:
                    await lost.wait()
            except DatabaseUnavailable:
                pass
            except Exception:
                log.exception("access_listen_failed")
            await asyncio.sleep(LISTEN_AGAIN)

    def _on_change(self) -> None:
        self.credentials.doubt()
        self._polling.wake()
