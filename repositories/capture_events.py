"""Events of event_driven captures, and triggers.

A trigger's row is the message to the capture's owner, whichever process that is: it is inserted while the request's row
is locked and in progress, so an owner that finds no unknown one under the same lock may end the capture.
`created_at` is taken under that lock: one request's triggers are committed in its order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.dialects.postgresql import insert

from models.entities import CaptureEvent
from models.values import Claim, EventKind, EventNote
from repositories.base import Key, Repository
from repositories.sql import sql
from utils.exceptions import LeaseLost


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class CaptureEventRepository(Repository[CaptureEvent]):
    entity = CaptureEvent

    async def save(self, claim: Claim, request_id: UUID, note: EventNote) -> None:
        """A motion event as its capture's owner knows it; repeated and older notes change nothing. Raises LeaseLost."""
        if not await self.fence(claim):
            raise LeaseLost
        values: dict[str, Any] = {
            "id": note.id, "request_id": request_id, "kind": note.kind.value, "label": note.label, "score": note.score,
            "from_at": _utc(note.start), "seen_at": _utc(note.seen), "to_at": _utc(note.seen) if note.over else None,
        }  # fmt: skip
        statement = insert(CaptureEvent).values(**values)
        await self.session.execute(
            statement.on_conflict_do_update(
                index_elements=[CaptureEvent.id],
                set_={
                    "seen_at": func.greatest(CaptureEvent.seen_at, statement.excluded.seen_at),
                    "to_at": func.coalesce(CaptureEvent.to_at, statement.excluded.to_at),
                    "score": func.greatest(CaptureEvent.score, statement.excluded.score),
                },
            )
        )

    async def add_trigger(self, event_id: UUID, request_id: UUID, label: str | None, at: datetime) -> CaptureEvent:
        """Inserts a trigger; the caller holds the request's row locked."""
        created: CaptureEvent | None = await self.session.scalar(
            insert(CaptureEvent)
            .values(
                id=event_id, request_id=request_id, kind=EventKind.TRIGGER.value, label=label, from_at=at, to_at=at,
                seen_at=at, created_at=func.clock_timestamp(),
            )
            .returning(CaptureEvent)
        )  # fmt: skip
        assert created is not None
        return created

    async def triggers(self, since: Mapping[UUID, datetime], limit: int) -> list[CaptureEvent]:
        """Triggers of several requests, each from its own moment of `created_at` on; oldest first."""
        if not since:
            return []
        query = select(CaptureEvent).from_statement(
            sql("""
            SELECT e.* FROM capture_events e
            JOIN unnest(CAST(:ids AS uuid[]), CAST(:moments AS timestamptz[])) AS w(request_id, since)
              ON w.request_id = e.request_id AND e.created_at >= w.since
            WHERE e.kind = 'trigger' ORDER BY e.created_at, e.id LIMIT :limit
            """)
        )
        found = await self.session.scalars(query, {"ids": list(since), "moments": list(since.values()), "limit": limit})
        return list(found.all())

    async def recent(self, request_id: UUID, since: datetime, limit: int) -> list[CaptureEvent]:
        """A request's events that lasted until `since` or came in later; the newest when there are more than `limit`."""
        lasted = or_(CaptureEvent.seen_at >= since, CaptureEvent.created_at >= since)
        query = (
            self.select().where(CaptureEvent.request_id == request_id, lasted)
            .order_by(CaptureEvent.created_at.desc(), CaptureEvent.id.desc()).limit(limit)
        )  # fmt: skip
        return list((await self.session.scalars(query)).all())

    async def find(self, request_id: UUID, *, after: Key | None, limit: int) -> list[CaptureEvent]:
        """A request's events by the time at which they began."""
        query = self.select().where(CaptureEvent.request_id == request_id)
        by = (CaptureEvent.from_at, CaptureEvent.id)
        return await self.page(query, by, after=after, limit=limit, descending=False)

    async def count_frames(self, request_id: UUID, windows: Sequence[range]) -> list[int]:
        """How many stored frames lie in each window of slots."""
        rows = await self.session.execute(
            sql(
                "SELECT (SELECT count(*) FROM frames f WHERE f.request_id = :id AND f.state = 'stored'"
                " AND f.sequence >= w.first AND f.sequence < w.stop) AS n"
                " FROM unnest(CAST(:first AS int[]), CAST(:stop AS int[])) WITH ORDINALITY AS w(first, stop, number)"
                " ORDER BY w.number"
            ),
            {"id": request_id, "first": [w.start for w in windows], "stop": [w.stop for w in windows]},
        )
        return [int(row.n) for row in rows]
