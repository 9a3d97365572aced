"""Tickets for the WebSocket: only a hash of each is kept."""

from __future__ import annotations

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from models.entities import WsTicket
from repositories.base import Repository

_NAMES = ("id", "kind", "subject", "secret_hash", "session_id", "scopes", "cameras", "credential_until", "expires_at")


class WsTicketRepository(Repository[WsTicket]):
    entity = WsTicket

    async def create(self, row: WsTicket) -> None:
        """A new ticket; running it twice changes nothing (rule 4)."""
        values = {name: getattr(row, name) for name in _NAMES if getattr(row, name) is not None}
        await self.session.execute(insert(WsTicket).values(**values).on_conflict_do_nothing())

    async def take(self, ticket_id: str) -> WsTicket | None:
        """The ticket, gone from the table: whoever comes second gets None. None for one whose time is over, too."""
        found = await self.session.scalars(
            delete(WsTicket).where(WsTicket.id == ticket_id, WsTicket.expires_at > func.now()).returning(WsTicket),
            execution_options={"synchronize_session": False},
        )
        return found.one_or_none()

    async def expire(self, limit: int) -> int:
        """Removes tickets whose time is over; how many."""
        old = select(WsTicket.id).where(WsTicket.expires_at < func.now()).limit(limit).with_for_update(skip_locked=True)
        gone = await self.session.scalars(
            delete(WsTicket).where(WsTicket.id.in_(old)).returning(WsTicket.id),
            execution_options={"synchronize_session": False},
        )
        return len(gone.all())
