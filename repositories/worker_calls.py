"""Calls: what one process asks of another that captures. One statement each; by the database's clock only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from models.entities import WorkerCall
from repositories.base import Repository
from repositories.sql import sql

# The process is asked that has the camera's stream; else the one at the site with the fewest calls and streams.
_POST = sql("""
    WITH target AS (
        SELECT w.worker_id FROM workers w
        WHERE w.role <> 'api' AND w.joined
          AND (w.worker_id = CAST(:to AS uuid) OR CAST(:to AS uuid) IS NULL AND NOT w.draining)
          AND (w.site = CAST(:site AS text) OR CAST(:site AS text) = '')
          AND w.seen_at > now() - make_interval(secs => :alive) AND NOT w.worker_id = ANY(CAST(:but AS uuid[]))
        ORDER BY (jsonb_exists(w.cameras, :camera_id)) DESC,
                 w.streams + (SELECT count(*) FROM worker_calls c WHERE c.worker_id = w.worker_id), w.worker_id
        LIMIT 1
    ), posted AS (
        INSERT INTO worker_calls (id, worker_id, caller, kind, request, expires_at)
        SELECT :id, worker_id, :caller, :kind, :request, now() + make_interval(secs => :seconds) FROM target
        RETURNING worker_id
    )
    SELECT worker_id, pg_notify('trackshift_' || replace(worker_id::text, '-', ''), 'call ' || :id_text) FROM posted
""")
_TAKE = sql("""
    WITH mine AS (
        SELECT id FROM worker_calls WHERE worker_id = :worker_id AND taken_at IS NULL AND expires_at > now()
        ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE worker_calls c SET taken_at = now() FROM mine WHERE c.id = mine.id
    RETURNING c.id, c.caller, c.kind, c.request
""")
_ANSWER = sql("""
    WITH answered AS (
        UPDATE worker_calls SET answer = :answer, picture = :picture WHERE id = :id AND taken_at IS NOT NULL RETURNING caller
    )
    SELECT pg_notify('trackshift_' || replace(caller::text, '-', ''), 'answer ' || :id_text) FROM answered
""")
_COLLECT = sql("DELETE FROM worker_calls WHERE id = :id AND answer IS NOT NULL RETURNING answer, picture")
_WITHDRAW = sql("""
    WITH gone AS (DELETE FROM worker_calls WHERE id = :id RETURNING worker_id)
    SELECT pg_notify('trackshift_' || replace(worker_id::text, '-', ''), 'gone ' || :id_text) FROM gone
""")
_STATE = sql("""
    SELECT c.taken_at IS NOT NULL AS taken,
           EXISTS (SELECT 1 FROM workers w WHERE w.worker_id = c.worker_id
                   AND w.seen_at > now() - make_interval(secs => :alive)) AS alive
    FROM worker_calls c WHERE c.id = :id
""")
_WANTED = sql("SELECT id FROM worker_calls WHERE worker_id = :worker_id AND answer IS NULL AND expires_at > now()")


@dataclass(frozen=True, slots=True)
class Taken:
    """A call that this process answers."""

    id: UUID
    caller: UUID
    kind: str
    request: str


class WorkerCallRepository(Repository[WorkerCall]):
    entity = WorkerCall

    async def post(
        self, call_id: UUID, caller: UUID, kind: str, request: str, *, site: str, camera_id: str, to: UUID | None,
        but: Sequence[UUID], seconds: float, alive: float,
    ) -> UUID | None:  # fmt: skip
        """Asks a process of the site (empty: of any), or `to`, none of `but`; returns which one, None when there is none."""
        asked: UUID | None = await self.session.scalar(
            _POST,
            {
                "id": call_id, "id_text": str(call_id), "caller": caller, "kind": kind, "request": request, "site": site,
                "to": to, "camera_id": camera_id, "but": list(but), "seconds": seconds, "alive": alive,
            },
        )  # fmt: skip
        return asked

    async def take(self, worker_id: UUID, limit: int) -> list[Taken]:
        """Calls for this process that it has not taken yet, the oldest first."""
        return [Taken(*row) for row in await self.session.execute(_TAKE, {"worker_id": worker_id, "limit": limit})]

    async def answer(self, call_id: UUID, answer: str, picture: bytes | None) -> None:
        """Nothing happens when the caller waits no longer."""
        await self.session.execute(_ANSWER, {"id": call_id, "id_text": str(call_id), "answer": answer, "picture": picture})

    async def collect(self, call_id: UUID) -> tuple[str, bytes | None] | None:
        """The answer, and its row is gone; None while there is none."""
        row = (await self.session.execute(_COLLECT, {"id": call_id})).one_or_none()
        return None if row is None else (row.answer, row.picture)

    async def withdraw(self, call_id: UUID) -> None:
        """Nobody waits for the answer any more."""
        await self.session.execute(_WITHDRAW, {"id": call_id, "id_text": str(call_id)})

    async def state(self, call_id: UUID, alive: float) -> tuple[bool, bool] | None:
        """Whether the call was taken, and whether who is asked is alive; None when its row is gone."""
        row = (await self.session.execute(_STATE, {"id": call_id, "alive": alive})).one_or_none()
        return None if row is None else (row.taken, row.alive)

    async def wanted(self, worker_id: UUID) -> set[UUID]:
        """The calls for this process whose callers still wait."""
        return set((await self.session.scalars(_WANTED, {"worker_id": worker_id})).all())
