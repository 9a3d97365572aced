"""Tickets: what a browser, which sends no header with a WebSocket, shows instead of its credential, once."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

from models.access import Principal
from repositories.database import Database
from services.access.credentials import CredentialCheck
from services.access.key_text import hash_of
from utils.exceptions import Unauthorized

TICKET_TTL = 30.0  # seconds
SWEPT = 10  # old tickets that each new one removes


class Tickets:
    """One a process. `on`: whether credentials are asked for (AUTH__MODE)."""

    def __init__(self, database: Database, credentials: CredentialCheck, *, on: bool) -> None:
        self._database, self._credentials, self._on = database, credentials, on

    async def issue(self, who: Principal) -> tuple[str, datetime]:
        """(a ticket for `who`, its end): for the WebSocket, once, TICKET_TTL seconds. Raises DatabaseUnavailable.

        While access is off nobody asks for it, and nothing is kept. The audit has a row of it, but for a browser session's:
        a page asks at each reconnect, and a ticket gives no more than its session, whose beginning is in the audit.
        """
        value, expires = secrets.token_urlsafe(32), datetime.now(UTC) + timedelta(seconds=TICKET_TTL)
        if self._on:
            row = self._credentials.ticket_row(who, value, expires)
            async with self._database.unit_of_work(events=False) as uow:
                await uow.ws_tickets.expire(SWEPT)  # so that the table cannot grow faster than it is swept
                await uow.ws_tickets.create(row)
                if who.session_id is None:
                    await uow.audit.write(None, "ticket.create")
        return value, expires

    async def redeem(self, value: str) -> Principal:
        """Whom a ticket stands for; it is gone then. Raises Unauthorized, DatabaseUnavailable."""
        row = None
        if len(value) <= 128:
            async with self._database.unit_of_work(events=False) as uow:
                row = await uow.ws_tickets.take(hash_of(value))
        if row is None:
            raise Unauthorized("The ticket is wrong, has been used or has expired.", details={"given": True})
        return await self._credentials.of_ticket(row)
