"""The processes of a deployment: each one's row, and what follows from all of them. By the database's clock only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from models.entities import Worker
from repositories.base import Repository
from repositories.sql import LAPSED, sql

MOST = 1000  # processes that are told at once

_ALIVE = "seen_at > now() - make_interval(secs => :ttl)"
_BEAT = sql("""
    WITH gone AS (DELETE FROM workers WHERE seen_at < now() - make_interval(secs => :ttl) AND worker_id <> :worker_id)
    INSERT INTO workers AS w (worker_id, role, site, host, version, started_at, captures, streams, draining)
    VALUES (:worker_id, :role, :site, :host, :version, :started_at, :captures, :streams, :draining)
    ON CONFLICT (worker_id) DO UPDATE SET
        seen_at = now(), captures = :captures, streams = :streams, draining = w.draining OR :draining
    RETURNING draining
""")
_ALL = sql(f"SELECT * FROM workers WHERE {_ALIVE} ORDER BY started_at, worker_id LIMIT {MOST}")  # noqa: S608
_DRAIN = sql(f"UPDATE workers SET draining = true WHERE worker_id = :worker_id AND {_ALIVE} RETURNING role")  # noqa: S608
_SITES = sql("SELECT DISTINCT site FROM camera_configurations WHERE enabled")
# Captures that nobody runs, of sites at which no process runs captures. `waiting`: seconds that they have waited for.
_ORPHANED = sql(f"""
    SELECT coalesce(c.site, 'default') AS site, count(*) AS captures
    FROM capture_leases l LEFT JOIN camera_configurations c USING (camera_id)
    WHERE {LAPSED} AND NOT EXISTS (
        SELECT 1 FROM workers w WHERE w.site = coalesce(c.site, 'default') AND w.role <> 'api' AND NOT w.draining
        AND w.{_ALIVE}
    )
    GROUP BY 1
""")  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class Beat:
    """What a process says of itself."""

    worker_id: UUID
    role: str
    site: str
    host: str
    version: str
    started_at: datetime
    captures: int
    streams: int
    draining: bool


class WorkerRepository(Repository[Worker]):
    entity = Worker

    async def beat(self, own: Beat, ttl: float) -> bool:
        """Writes this process's row, removes those not seen for `ttl` seconds. Whether this process is to drain."""
        return bool(await self.session.scalar(_BEAT, {**asdict(own), "ttl": ttl}))

    async def alive(self, ttl: float) -> list[Worker]:
        """The processes seen within `ttl` seconds, those that began first before the others; at most MOST."""
        found = await self.session.scalars(self.select().from_statement(_ALL), {"ttl": ttl})
        return list(found.all())

    async def ask_to_drain(self, worker_id: UUID, ttl: float) -> str | None:
        """The role of the process that is to drain from now on; None when there is none."""
        role: str | None = await self.session.scalar(_DRAIN, {"worker_id": worker_id, "ttl": ttl})
        return role

    async def leave(self, worker_id: UUID) -> None:
        """Removes the row of a process that ends."""
        await self.session.execute(sql("DELETE FROM workers WHERE worker_id = :id"), {"id": worker_id})

    async def camera_sites(self) -> list[str]:
        """The sites of enabled cameras."""
        return list((await self.session.scalars(_SITES)).all())

    async def orphaned(self, ttl: float) -> dict[str, int]:
        """How many captures wait that no process will claim, by site."""
        return {row.site: row.captures for row in await self.session.execute(_ORPHANED, {"ttl": ttl})}
