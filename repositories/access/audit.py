"""The audit: who wrote what, in the transaction of the write; refused credentials, one row an address, code and minute.

A trigger refuses every change of a row, and its removal before `keep_until` (migration 0010).
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import uuid5

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from models.access import ACTOR, ENTRY_NAMES, Actor
from models.entities import Audit
from models.values import AuditFilter
from repositories.base import AnyKey, Repository


class AuditRepository(Repository[Audit]):
    entity = Audit

    async def write(self, target: object, action: str | None = None, details: dict[str, Any] | None = None) -> None:
        """A row for the request that this transaction belongs to; nothing while access is off.

        Running it twice for one request and target writes one row (rule 4).
        """
        if (actor := ACTOR.get()) is not None:
            await self.note(actor, str(target) if target is not None else None, action or actor.action, details)

    async def note(self, actor: Actor, target: str | None, action: str, details: dict[str, Any] | None = None) -> None:
        """A row for `actor`; one per request, action and target."""
        entry = actor.entry(action, target)
        values = {name: value for name, value in asdict(actor).items() if name not in ("request", "action", "keep")}
        kept = {} if details is None else {"details": details}
        await self._insert(actor.keep, entry=entry, action=action, target=target, **values, **kept)

    async def refused(self, address: str | None, code: str, status: int, minute: int, trace_id: str, keep: float) -> None:
        """A refused credential; one row per address, code and minute, whichever process refuses."""
        entry = uuid5(ENTRY_NAMES, f"refused|{address}|{code}|{minute}")
        await self._insert(
            keep, entry=entry, action="credential.refused", target=code, address=address, status=status, trace_id=trace_id
        )

    async def _insert(self, keep: float, **values: Any) -> None:
        until = func.now() + timedelta(seconds=keep)
        await self.session.execute(
            insert(Audit).values(**values, keep_until=until).on_conflict_do_nothing(index_elements=["entry"])
        )

    async def find(self, wanted: AuditFilter, *, after: AnyKey | None, limit: int) -> list[Audit]:
        """Rows, newest first."""
        query = self.select()
        if wanted.subject is not None:
            query = query.where(Audit.subject == wanted.subject)
        if wanted.action is not None:
            query = query.where(Audit.action == wanted.action)
        if wanted.from_ is not None:
            query = query.where(Audit.at >= wanted.from_)
        if wanted.to is not None:
            query = query.where(Audit.at < wanted.to)
        return await self.page(query, (Audit.at, Audit.entry), after=after, limit=limit, descending=True)

    async def expire(self, limit: int) -> int:
        """Removes rows whose time is over; how many."""
        old = select(Audit.id).where(Audit.keep_until < func.now()).limit(limit)
        gone = await self.session.scalars(
            delete(Audit).where(Audit.id.in_(old)).returning(Audit.id), execution_options={"synchronize_session": False}
        )
        return len(gone.all())
