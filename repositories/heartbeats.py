"""A process's heartbeat, and what waits for it: one statement on a plain asyncpg connection.

An idle process does little else, so what it would have to ask for in turn is asked for at once. Whoever is told by a notice
hears of it sooner; the heartbeat finds what was not heard. By the database's clock only.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from repositories.reader import Reader
from repositories.sql import LAPSED

_MOST = 1000  # processes that are told at once

# Without the streams' status, which is long.
_COLUMNS = (
    "worker_id, role, site, host, version, started_at, seen_at, captures, streams, draining, joined, lease_ttl, "
    "schema_revision"
)
_HEARTBEAT = f"""
    WITH gone AS (DELETE FROM workers WHERE seen_at < now() - make_interval(secs => $1) AND worker_id <> $2),
    own AS (
        INSERT INTO workers AS w (worker_id, role, site, host, version, started_at, captures, streams, draining, joined,
                                  lease_ttl, cameras, schema_revision)
        VALUES ($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::jsonb, $14)
        ON CONFLICT (worker_id) DO UPDATE SET
            seen_at = now(), captures = excluded.captures, streams = excluded.streams,
            draining = w.draining OR excluded.draining, joined = excluded.joined, cameras = excluded.cameras
        RETURNING draining, (SELECT count(*) FROM pg_notify($15, $16) WHERE $15 <> '')
    )
    SELECT own.draining AS drain,
           EXISTS (SELECT 1 FROM capture_leases l WHERE {LAPSED}) AS captures_wait,
           (SELECT extract(epoch FROM min(expires_at) - now())::float8
            FROM capture_leases WHERE expires_at >= now()) AS lapse_in,
           EXISTS (SELECT 1 FROM worker_calls WHERE worker_id = $2 AND taken_at IS NULL AND expires_at > now()) AS calls,
           EXISTS (SELECT 1 FROM outbox_pending) AS events,
           EXISTS (SELECT 1 FROM pairs WHERE status = 'pending' AND (leased_until IS NULL OR leased_until < now())) AS pairs,
           EXISTS (SELECT 1 FROM camera_configurations c WHERE c.enabled AND c.keep_open AND c.site = $4) AS kept,
           peer.*
    FROM own LEFT JOIN (
        SELECT {_COLUMNS} FROM workers WHERE seen_at > now() - make_interval(secs => $1) AND worker_id <> $2
        ORDER BY started_at, worker_id LIMIT {_MOST}
    ) AS peer ON true
    ORDER BY peer.started_at, peer.worker_id
"""  # noqa: S608 - constants
# `orphaned`: captures that nobody runs, of sites at which no process runs captures.
_OVERVIEW = f"""
    WITH gone AS (DELETE FROM worker_calls WHERE expires_at < now()),
    orphaned AS (
        SELECT coalesce(c.site, 'default') AS site, count(*) AS captures
        FROM capture_leases l LEFT JOIN camera_configurations c USING (camera_id)
        WHERE {LAPSED} AND NOT EXISTS (
            SELECT 1 FROM workers w WHERE w.site = coalesce(c.site, 'default') AND w.role <> 'api' AND NOT w.draining
                AND w.joined AND w.seen_at > now() - make_interval(secs => $1)
        )
        GROUP BY 1
    )
    SELECT (SELECT version_num FROM alembic_version) AS revision,
           (SELECT coalesce(array_agg(revision ORDER BY number), '{{}}') FROM schema_steps) AS made,
           ARRAY(SELECT DISTINCT site FROM camera_configurations WHERE enabled) AS sites,
           (SELECT coalesce(jsonb_object_agg(site, captures), '{{}}') FROM orphaned) AS orphaned
"""  # noqa: S608 - constants


_ALIVE = f"""
    SELECT {_COLUMNS} FROM workers WHERE seen_at > now() - make_interval(secs => $1)
    ORDER BY started_at, worker_id LIMIT {_MOST}
"""  # noqa: S608 - constants


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
class Heartbeat:
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


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a heartbeat found."""

    drain: bool  # this process is to hand over
    captures: bool  # one that nobody runs, of any site
    lapse_in: float | None  # seconds until the next lease ends, should its owner not renew it
    calls: bool  # this process is asked for something
    events: bool  # in the outbox
    pairs: bool  # one that waits for its alignment and that nobody is at
    kept: bool  # there are cameras of this site to be kept open


@dataclass(frozen=True, slots=True)
class DeploymentOverview:
    """How the deployment stands."""

    revision: str  # of the schema
    made: list[str]  # its steps, in their order, from the one on that records them
    sites: list[str]  # of enabled cameras
    orphaned: dict[str, int]  # captures that wait and that no process will claim, by site


class Heartbeats:
    """Raises DatabaseUnavailable."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def write(self, own: Heartbeat, ttl: float, channel: str = "", notice: str = "") -> tuple[Waiting, list[Peer]]:
        """Writes this process's row, removes those not seen for `ttl` seconds. What waits, and the other processes that are
        alive, those that began first before the others; at most 1,000. `notice` is given on `channel`, if that is named."""
        given = (
            float(ttl), own.worker_id, own.role, own.site, own.host, own.version, own.started_at, own.captures, own.streams,
            own.draining, own.joined, float(own.lease_ttl), own.cameras, own.schema_revision, channel, notice,
        )  # fmt: skip
        rows = await self._reader.write(lambda connection: connection.fetch(_HEARTBEAT, *given))
        found = [tuple(row) for row in rows]
        return Waiting(*found[0][:7]), [Peer(*row[7:]) for row in found if row[7] is not None]

    async def alive(self, ttl: float) -> list[Peer]:
        """All processes seen within `ttl` seconds, in the same order."""
        return [Peer(*row) for row in await self._reader.read(lambda connection: connection.fetch(_ALIVE, float(ttl)))]

    async def overview(self, ttl: float) -> DeploymentOverview:
        """Also removes calls for whose answers nobody waits any more."""
        return DeploymentOverview(*await self._reader.write(lambda connection: connection.fetchrow(_OVERVIEW, float(ttl))))
