"""The processes of a deployment: each one's row, and what follows from all of them. By the database's clock only."""

from __future__ import annotations

from collections.abc import Sequence
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
    INSERT INTO workers AS w (worker_id, role, site, host, version, started_at, captures, streams, draining, joined,
                              lease_ttl, cameras, schema_revision)
    VALUES (:worker_id, :role, :site, :host, :version, :started_at, :captures, :streams, :draining, :joined,
            :lease_ttl, CAST(:cameras AS jsonb), :schema_revision)
    ON CONFLICT (worker_id) DO UPDATE SET
        seen_at = now(), captures = :captures, streams = :streams, draining = w.draining OR :draining, joined = :joined,
        cameras = CAST(:cameras AS jsonb)
    RETURNING draining
""")
# Without the streams' status, which is long.
_COLUMNS = (
    "worker_id, role, site, host, version, started_at, seen_at, captures, streams, draining, joined, lease_ttl, "
    "schema_revision"
)
_ALL = sql(f"SELECT {_COLUMNS} FROM workers WHERE {_ALIVE} ORDER BY started_at, worker_id LIMIT {MOST}")  # noqa: S608
_DRAIN = sql(f"UPDATE workers SET draining = true WHERE worker_id = :worker_id AND {_ALIVE} RETURNING role")  # noqa: S608
_SITES = sql("SELECT DISTINCT site FROM camera_configurations WHERE enabled")
_KEEP = sql("""
    INSERT INTO kept_streams AS k (camera_id, worker_id, expires_at)
    SELECT camera_id, :worker_id, now() + make_interval(secs => :ttl)
    FROM unnest(CAST(:ids AS text[])) AS wanted(camera_id) ORDER BY camera_id
    ON CONFLICT (camera_id) DO UPDATE SET worker_id = excluded.worker_id, expires_at = excluded.expires_at
    WHERE k.worker_id = excluded.worker_id OR k.expires_at < now()
    RETURNING camera_id
""")
_KEPT_ELSEWHERE = sql("SELECT camera_id FROM kept_streams WHERE worker_id <> :worker_id AND expires_at >= now()")
_SCHEMA = sql("""
    SELECT (SELECT version_num FROM alembic_version) AS revision,
           (SELECT coalesce(array_agg(revision ORDER BY number), '{}') FROM schema_steps) AS made
""")
# Captures that nobody runs, of sites at which no process runs captures. `waiting`: seconds that they have waited for.
_ORPHANED = sql(f"""
    SELECT coalesce(c.site, 'default') AS site, count(*) AS captures
    FROM capture_leases l LEFT JOIN camera_configurations c USING (camera_id)
    WHERE {LAPSED} AND NOT EXISTS (
        SELECT 1 FROM workers w
        WHERE w.site = coalesce(c.site, 'default') AND w.role <> 'api' AND NOT w.draining AND w.joined AND w.{_ALIVE}
    )
    GROUP BY 1
""")  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class Peer:
    """A process as its row tells."""

    worker_id: UUID
    role: str
    site: str
    host: str
    version: str
    started_at: datetime
    seen_at: datetime
    captures: int
    streams: int
    draining: bool
    joined: bool
    lease_ttl: float
    schema_revision: str | None  # the newest that its code knows

    @property
    def captures_there(self) -> bool:
        """Whether it takes captures."""
        return self.role != "api" and not self.draining and self.joined


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
    joined: bool
    lease_ttl: float  # seconds
    cameras: str  # the status of its streams by camera, as JSON
    schema_revision: str


class WorkerRepository(Repository[Worker]):
    entity = Worker

    async def beat(self, own: Beat, ttl: float) -> bool:
        """Writes this process's row, removes those not seen for `ttl` seconds. Whether this process is to drain."""
        return bool(await self.session.scalar(_BEAT, {**asdict(own), "ttl": ttl}))

    async def alive(self, ttl: float) -> list[Peer]:
        """The processes seen within `ttl` seconds, those that began first before the others; at most MOST."""
        return [Peer(*row) for row in await self.session.execute(_ALL, {"ttl": ttl})]

    async def expire_calls(self) -> None:
        """Removes calls for whose answers nobody waits any more."""
        await self.session.execute(sql("DELETE FROM worker_calls WHERE expires_at < now()"))

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

    async def leave(self, worker_id: UUID) -> None:
        """Removes the row of a process that ends."""
        await self.session.execute(sql("DELETE FROM workers WHERE worker_id = :id"), {"id": worker_id})

    async def schema_revision(self) -> tuple[str, list[str]]:
        """The schema's revision, and the steps that were made, in their order, from the one on that records them."""
        row = (await self.session.execute(_SCHEMA)).one()
        return row.revision, list(row.made)

    async def camera_sites(self) -> list[str]:
        """The sites of enabled cameras."""
        return list((await self.session.scalars(_SITES)).all())

    async def orphaned(self, ttl: float) -> dict[str, int]:
        """How many captures wait that no process will claim, by site."""
        return {row.site: row.captures for row in await self.session.execute(_ORPHANED, {"ttl": ttl})}
