"""What processes of a deployment tell each other by rows, beside their heartbeats. By the database's clock only."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from models.entities import Worker
from repositories.base import Repository
from repositories.sql import sql

_ALIVE = "seen_at > now() - make_interval(secs => :ttl)"
_DRAIN = sql(f"UPDATE workers SET draining = true WHERE worker_id = :worker_id AND {_ALIVE} RETURNING role")  # noqa: S608
_KEEP = sql("""
    INSERT INTO kept_streams AS k (camera_id, worker_id, expires_at)
    SELECT camera_id, :worker_id, now() + make_interval(secs => :ttl)
    FROM unnest(CAST(:ids AS text[])) AS wanted(camera_id) ORDER BY camera_id
    ON CONFLICT (camera_id) DO UPDATE SET worker_id = excluded.worker_id, expires_at = excluded.expires_at
    WHERE k.worker_id = excluded.worker_id OR k.expires_at < now()
    RETURNING camera_id
""")
_KEPT_ELSEWHERE = sql("SELECT camera_id FROM kept_streams WHERE worker_id <> :worker_id AND expires_at >= now()")


class WorkerRepository(Repository[Worker]):
    entity = Worker

    async def notify(self, channel: str, payload: str) -> None:
        await self.session.execute(sql("SELECT pg_notify(:channel, :payload)"), {"channel": channel, "payload": payload})

    async def keep(self, worker_id: UUID, camera_ids: Sequence[str], ttl: float) -> set[str]:
        """Takes or renews the keeping of these cameras' streams; returns those that are this process's now."""
        rows = await self.session.scalars(_KEEP, {"worker_id": worker_id, "ids": sorted(camera_ids), "ttl": ttl})
        return set(rows.all())

    async def kept_elsewhere(self, worker_id: UUID) -> set[str]:
        """The cameras whose streams other processes keep open."""
        return set((await self.session.scalars(_KEPT_ELSEWHERE, {"worker_id": worker_id})).all())

    async def let_go(self, worker_id: UUID, camera_ids: Sequence[str]) -> None:
        """Lets any other process keep these cameras' streams at once."""
        gone = sql("DELETE FROM kept_streams WHERE worker_id = :worker_id AND camera_id = ANY(CAST(:ids AS text[]))")
        await self.session.execute(gone, {"worker_id": worker_id, "ids": list(camera_ids)})

    async def ask_to_drain(self, worker_id: UUID, ttl: float) -> str | None:
        """The role of the process that is to drain from now on; None when there is none."""
        role: str | None = await self.session.scalar(_DRAIN, {"worker_id": worker_id, "ttl": ttl})
        return role

    async def remove(self, worker_id: UUID) -> None:
        """Removes the row of a process that ends."""
        await self.session.execute(sql("DELETE FROM workers WHERE worker_id = :id"), {"id": worker_id})
