"""The audit as administrators read it."""

from __future__ import annotations

from uuid import UUID

from models.access import Principal
from models.entities import Audit
from models.values import AuditFilter
from repositories.database import Database
from services.access.cursors import Cursors


class AuditLog:
    """Raises InvalidRequest for a cursor, DatabaseUnavailable."""

    def __init__(self, database: Database, cursors: Cursors) -> None:
        self._database = database
        self._cursors = cursors

    async def page(
        self, who: Principal, wanted: AuditFilter, limit: int, cursor: str | None
    ) -> tuple[list[Audit], str | None]:
        """A page of rows, newest first, and the cursor after it."""
        after = self._cursors.decode(cursor, wanted, who, UUID)
        async with self._database.reading() as uow:
            rows = await uow.audit.find(wanted, after=after, limit=limit + 1)
        more = rows[limit - 1] if len(rows) > limit else None
        return rows[:limit], self._cursors.encode(more.at, more.entry, wanted, who) if more else None
