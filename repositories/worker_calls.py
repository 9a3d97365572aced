"""Calls: what one process asks of another that captures; notices; whose streams are open where.

One statement each on a plain asyncpg connection: four of them lie one after the other between a client's question for
another process's picture and its answer. By the database's clock only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from models.entities import Json
from repositories.reader import Reader

# The process is asked that has the camera's stream; else the one at the site with the fewest calls and streams.
_POST = """
    WITH target AS (
        SELECT w.worker_id FROM workers w
        WHERE w.role <> 'api' AND w.joined
          AND (w.worker_id = CAST($7 AS uuid) OR CAST($7 AS uuid) IS NULL AND NOT w.draining)
          AND (w.site = CAST($6 AS text) OR CAST($6 AS text) = '')
          AND w.seen_at > now() - make_interval(secs => $11) AND NOT w.worker_id = ANY(CAST($9 AS uuid[]))
        ORDER BY (jsonb_exists(w.cameras, $8)) DESC,
                 w.streams + (SELECT count(*) FROM worker_calls c WHERE c.worker_id = w.worker_id), w.worker_id
        LIMIT 1
    ), posted AS (
        INSERT INTO worker_calls (id, worker_id, caller, kind, request, expires_at)
        SELECT $1, worker_id, $3, $4, $5, now() + make_interval(secs => $10) FROM target
        RETURNING worker_id
    )
    SELECT worker_id, pg_notify('trackshift_' || replace(worker_id::text, '-', ''), 'call ' || $2) FROM posted
"""
_TAKE = """
    WITH mine AS (
        SELECT id FROM worker_calls WHERE worker_id = $1 AND taken_at IS NULL AND expires_at > now()
        ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    UPDATE worker_calls c SET taken_at = now() FROM mine WHERE c.id = mine.id
    RETURNING c.id, c.caller, c.kind, c.request
"""
_ANSWER = """
    WITH answered AS (
        UPDATE worker_calls SET answer = $3, picture = $4 WHERE id = $1 AND taken_at IS NOT NULL RETURNING caller
    )
    SELECT pg_notify('trackshift_' || replace(caller::text, '-', ''), 'answer ' || $2) FROM answered
"""
_COLLECT = "DELETE FROM worker_calls WHERE id = $1 AND answer IS NOT NULL RETURNING answer, picture"
_WITHDRAW = """
    WITH gone AS (DELETE FROM worker_calls WHERE id = $1 RETURNING worker_id)
    SELECT pg_notify('trackshift_' || replace(worker_id::text, '-', ''), 'gone ' || $2) FROM gone
"""
_STATE = """
    SELECT c.taken_at IS NOT NULL AS taken,
           EXISTS (SELECT 1 FROM workers w WHERE w.worker_id = c.worker_id
                   AND w.seen_at > now() - make_interval(secs => $2)) AS alive
    FROM worker_calls c WHERE c.id = $1
"""
_WANTED = "SELECT id FROM worker_calls WHERE worker_id = $1 AND answer IS NULL AND expires_at > now()"


_STREAMS = """
    SELECT DISTINCT ON (s.key) s.key AS camera_id, s.value AS status, w.worker_id
    FROM workers w, jsonb_each(w.cameras) s
    WHERE w.worker_id <> $2 AND s.key = ANY($1::text[]) AND w.seen_at > now() - make_interval(secs => $3)
    ORDER BY s.key, s.value ->> 'state' = 'live' DESC, w.worker_id
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """A call that this process answers."""

    id: UUID
    caller: UUID
    kind: str
    request: str


class WorkerCalls:
    """Raises DatabaseUnavailable: whether a statement that writes was done is unknown then."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def post(
        self, call_id: UUID, caller: UUID, kind: str, request: str, *, site: str, camera_id: str, to: UUID | None,
        but: Sequence[UUID], seconds: float, alive: float,
    ) -> UUID | None:  # fmt: skip
        """Asks a process of the site (empty: of any), or `to`, none of `but`; returns which one, None when there is none."""
        given = (call_id, str(call_id), caller, kind, request, site, to, camera_id, [*but], float(seconds), float(alive))
        asked: UUID | None = await self._reader.write(lambda connection: connection.fetchval(_POST, *given))
        return asked

    async def take(self, worker_id: UUID, limit: int) -> list[Taken]:
        """Calls for this process that it has not taken yet, the oldest first."""
        rows = await self._reader.write(lambda connection: connection.fetch(_TAKE, worker_id, limit))
        return [Taken(*row) for row in rows]

    async def answer(self, call_id: UUID, answer: str, picture: bytes | None) -> None:
        """Nothing happens when the caller waits no longer."""
        given = (call_id, str(call_id), answer, picture)
        await self._reader.write(lambda connection: connection.fetch(_ANSWER, *given))

    async def collect(self, call_id: UUID) -> tuple[str, bytes | None] | None:
        """The answer, and its row is gone; None while there is none."""
        row = await self._reader.write(lambda connection: connection.fetchrow(_COLLECT, call_id))
        return None if row is None else (row["answer"], row["picture"])

    async def withdraw(self, call_id: UUID) -> None:
        """Nobody waits for the answer any more."""
        await self._reader.write(lambda connection: connection.fetch(_WITHDRAW, call_id, str(call_id)))

    async def state(self, call_id: UUID, alive: float) -> tuple[bool, bool] | None:
        """Whether the call was taken, and whether who is asked is alive; None when its row is gone."""
        row = await self._reader.read(lambda connection: connection.fetchrow(_STATE, call_id, float(alive)))
        return None if row is None else (row["taken"], row["alive"])

    async def wanted(self, worker_id: UUID) -> set[UUID]:
        """The calls for this process whose callers still wait."""
        rows = await self._reader.read(lambda connection: connection.fetch(_WANTED, worker_id))
        return {row["id"] for row in rows}

    async def notify(self, channel: str, payload: str) -> None:
        """A notice to whoever listens."""
        await self._reader.write(lambda connection: connection.execute("SELECT pg_notify($1, $2)", channel, payload))

    async def streams(self, camera_ids: Sequence[str], but: UUID, ttl: float) -> dict[str, tuple[Json, UUID]]:
        """The status of cameras' streams as other processes than `but` told last, and whose each is; of several the open
        one."""
        given = ([*camera_ids], but, float(ttl))
        rows = await self._reader.read(lambda connection: connection.fetch(_STREAMS, *given))
        return {row["camera_id"]: (row["status"], row["worker_id"]) for row in rows}
