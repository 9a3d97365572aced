"""Browser sessions: only a hash of the cookie's value is kept."""

from __future__ import annotations

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from models.entities import BrowserSession
from repositories.base import Repository


class BrowserSessionRepository(Repository[BrowserSession]):
    entity = BrowserSession

    async def create(self, row: BrowserSession) -> None:
        """A new session; running it twice changes nothing (rule 4)."""
        names = ("id", "kind", "subject", "secret_hash", "scopes", "cameras", "expires_at")
        values = {name: getattr(row, name) for name in names if getattr(row, name) is not None}
        await self.session.execute(insert(BrowserSession).values(**values).on_conflict_do_nothing())

    async def end(self, session_id: str) -> None:
        await self.session.execute(delete(BrowserSession).where(BrowserSession.id == session_id))

    async def expire(self, limit: int) -> int:
        """Removes sessions whose time is over; how many."""
        old = select(BrowserSession.id).where(BrowserSession.expires_at < func.now()).limit(limit)
        gone = await self.session.scalars(
            delete(BrowserSession).where(BrowserSession.id.in_(old)).returning(BrowserSession.id),
            execution_options={"synchronize_session": False},
        )
        return len(gone.all())
