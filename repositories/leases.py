"""Leases: who runs which capture. Only the database's clock decides when one has lapsed.

Longer than 250 lines: every statement on a lease, so that what has lapsed is decided in one place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select

from models.entities import CaptureLease, IngestionRequest
from models.values import Claim
from repositories.base import Repository
from repositories.sql import LAPSED, sql

# A camera that is not registered is of the site `default`.
_OF_SITE = """coalesce((SELECT c.site FROM camera_configurations c WHERE c.camera_id = l.camera_id), 'default') = :site"""
# How long nobody has run it.
_WAITED = "clock_timestamp() - coalesce(l.expires_at, l.claimed_at)"
# Where several processes capture at the site (:peers): a camera that another one has a stream of is left to that one for a
# second, so that a camera's captures stay on one connection.
_OURS = f"""(CAST(:peers AS int) = 1 OR {_WAITED} > interval '1 s' OR l.camera_id IN (SELECT camera_id FROM running)
    OR l.camera_id NOT IN (
        SELECT o.camera_id FROM capture_leases o WHERE o.owner <> :owner AND o.expires_at >= clock_timestamp()
        UNION ALL SELECT k.camera_id FROM kept_streams k WHERE k.worker_id <> :worker_id AND k.expires_at >= now()
    ))"""  # noqa: S608 - constants of this module
# Its owner died (another process's, not handed back) without progress since it took the capture: it stored nothing, settled
# no slot, recorded no failure of the camera, and did not live for a minute. The capture may be what it died of.
_DOUBTFUL = """(l.owner IS NOT NULL AND l.owner <> :owner
    AND coalesce(l.expires_at - make_interval(secs => l.ttl), l.claimed_at) < l.claimed_at + interval '60 s'
    AND l.mark = lease_mark(l.request_id))"""
# What whoever takes a lease writes. An owner that handed back, or is this process, has not died.
_TAKEN = f"""owner = :owner, epoch = l.epoch + 1, claimed_at = now(), mark = lease_mark(l.request_id),
    attempts = CASE WHEN {_DOUBTFUL} THEN l.attempts + 1 WHEN l.owner IS NULL OR l.owner = :owner THEN l.attempts
                    ELSE 0 END"""
# What whoever takes or renews a lease writes: both from the same number.
_HELD = "expires_at = now() + make_interval(secs => :ttl), ttl = CAST(:ttl AS float8)"


@dataclass(frozen=True, slots=True)
class Renewed:
    """What became of claims: renewed (`ours`), or locked by another transaction now (`busy`); of both, those to cancel."""

    ours: frozenset[UUID]
    busy: frozenset[UUID]
    cancelled: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class ProcessShares:
    """What one principal may have a process run: so many captures, and streams that only it uses.

    `held`: what each has now, as (captures, streams).
    """

    captures: int
    streams: int
    held: dict[str, tuple[int, int]]


_RUNNING = "running AS (SELECT key AS camera_id, value::int AS n FROM jsonb_each_text(CAST(:running AS jsonb)))"
_ALL = f"""{_RUNNING},
    mine AS (
        SELECT l.request_id, l.camera_id, r.n, {_WAITED} > interval '1 s' AS overdue
        FROM capture_leases l LEFT JOIN running r USING (camera_id)
        WHERE {LAPSED} AND {_OF_SITE} AND {_OURS} AND (:doubtful OR NOT {_DOUBTFUL})
    )"""  # noqa: S608 - constants of this module
# Of each principal no more than its share: cameras without a stream first, then captures, in the fair order. What was
# taken before goes on, whatever is held. Without a principal: access is off, or was.
_WITHIN_SHARES = f"""{_RUNNING},
    held AS (
        SELECT key AS principal, (value->>0)::int AS captures, (value->>1)::int AS streams
        FROM jsonb_each(CAST(:held AS jsonb))
    ),
    lapsed AS (
        SELECT l.request_id, l.camera_id, l.principal, r.n, {_WAITED} > interval '1 s' AS overdue,
               l.principal IS NULL OR l.epoch > 0 AS anyway,
               row_number() OVER own + coalesce(r.n, 0) AS place, first_value(l.request_id) OVER own AS first_id
        FROM capture_leases l LEFT JOIN running r USING (camera_id)
        WHERE {LAPSED} AND {_OF_SITE} AND {_OURS} AND (:doubtful OR NOT {_DOUBTFUL})
        WINDOW own AS (PARTITION BY l.principal, l.camera_id ORDER BY l.request_id)
    ),
    by_camera AS (
        SELECT *, dense_rank() OVER (PARTITION BY principal, n IS NULL ORDER BY first_id) AS camera_rank FROM lapsed
    ),
    by_capture AS (
        SELECT c.*, coalesce(h.captures, 0) AS captures,
               row_number() OVER (PARTITION BY c.principal ORDER BY c.place, c.request_id) AS capture_rank
        FROM by_camera c LEFT JOIN held h USING (principal)
        WHERE anyway OR n IS NOT NULL OR camera_rank <= :share_of_streams - coalesce(h.streams, 0)
    ),
    mine AS (
        SELECT request_id, camera_id, n, overdue FROM by_capture
        WHERE anyway OR capture_rank <= :share_of_captures - captures
    )"""  # noqa: S608 - constants of this module


class LeaseRepository(Repository[CaptureLease]):
    entity = CaptureLease

    async def claim(
        self, owner: str, ttl: float, limit: int, running: dict[str, int], new_cameras: int,
        shares: ProcessShares | None = None, *, doubtful: bool = True, site: str = "default",
        peers: int = 1, worker_id: UUID | None = None,
    ) -> list[Claim]:  # fmt: skip
        """Takes up to `limit` captures that nobody runs, in fair order: a camera's second waits for every camera's first.

        `running` says how many captures of each camera this process runs already; of cameras that it has no
        stream of, at most `new_cameras` are taken, and of each principal no more than its share (None: all). `doubtful`:
        also those that their last owner may have died of (`claim_doubtful`). Only cameras of `site`. Where so
        many `peers` capture there: no more cameras than this process's share of those with captures, but for what has
        waited for a second. Locks in id order, skips what another process takes meanwhile.
        """
        given = {}
        if shares is not None:
            given = {
                "share_of_captures": shares.captures, "share_of_streams": shares.streams, "held": json.dumps(shares.held)
            }  # fmt: skip
        rows = await self.session.execute(
            sql(f"""
            WITH {_ALL if shares is None else _WITHIN_SHARES},
            free AS (
                SELECT request_id, camera_id, n, overdue,
                       row_number() OVER (PARTITION BY camera_id ORDER BY request_id) AS place,
                       first_value(request_id) OVER (PARTITION BY camera_id ORDER BY request_id) AS first_id
                FROM mine
            ),
            ranked AS (
                SELECT request_id, n, overdue, place + coalesce(n, 0) AS place,
                       dense_rank() OVER (PARTITION BY n IS NULL ORDER BY first_id) AS camera_rank
                FROM free
            ),
            due AS (
                SELECT request_id FROM ranked
                WHERE n IS NOT NULL OR camera_rank <= :new_cameras AND (
                    CAST(:peers AS int) = 1 OR overdue
                    OR camera_rank <= ceil((
                        SELECT count(DISTINCT l.camera_id) FROM capture_leases l WHERE {_OF_SITE}
                    )::numeric / CAST(:peers AS int)) - CAST(:streams AS int)
                )
                ORDER BY place, request_id LIMIT :limit
            ),
            taken AS (
                SELECT l.request_id FROM capture_leases l
                WHERE l.request_id IN (SELECT request_id FROM due) AND {LAPSED}
                ORDER BY l.request_id FOR UPDATE SKIP LOCKED
            )
            UPDATE capture_leases l
            SET {_TAKEN}, {_HELD}
            FROM taken WHERE l.request_id = taken.request_id
            RETURNING l.request_id, l.epoch, l.attempts
            """),  # noqa: S608 - constants of this module
            {
                "owner": owner, "ttl": ttl, "limit": limit, "running": json.dumps(running), "new_cameras": new_cameras,
                "doubtful": doubtful, "site": site, "peers": max(1, peers), "worker_id": worker_id or UUID(int=0),
                "streams": len(running),
            } | given,
        )  # fmt: skip
        return [Claim(row.request_id, row.epoch, resumed=row.epoch > 1, attempts=row.attempts) for row in rows]

    async def claim_doubtful(
        self, owner: str, ttl: float, running: Sequence[str], new_cameras: int, site: str = "default"
    ) -> list[Claim]:
        """Takes one capture that its last owner may have died of, the one with the fewest such owners first; at most one.

        `running`: cameras that this process has a stream of; of others it takes one if `new_cameras` is above 0.
        """
        rows = await self.session.execute(
            sql(f"""
            WITH taken AS (
                SELECT l.request_id FROM capture_leases l
                WHERE {LAPSED} AND {_DOUBTFUL} AND {_OF_SITE}
                    AND (:new_cameras > 0 OR l.camera_id = ANY(CAST(:running AS text[])))
                ORDER BY l.attempts, l.request_id LIMIT 1 FOR UPDATE SKIP LOCKED
            )
            UPDATE capture_leases l
            SET {_TAKEN}, {_HELD}
            FROM taken WHERE l.request_id = taken.request_id
            RETURNING l.request_id, l.epoch, l.attempts
            """),  # noqa: S608 - constants of this module
            {"owner": owner, "ttl": ttl, "running": list(running), "new_cameras": new_cameras, "site": site},
        )
        return [Claim(row.request_id, row.epoch, resumed=True, attempts=row.attempts) for row in rows]

    async def take_cancelled(self, owner: str, ttl: float, limit: int) -> list[Claim]:
        """Takes up to `limit` captures that nobody runs and whose end was asked for: they only need to be ended.

        A pending one was ended by its cancel, so these have been somebody's before.
        """
        rows = await self.session.execute(
            sql(f"""
            WITH taken AS (
                SELECT l.request_id FROM capture_leases l JOIN ingestion_requests r ON r.id = l.request_id
                WHERE l.epoch > 0 AND {LAPSED} AND r.cancel_requested_at IS NOT NULL
                ORDER BY l.request_id LIMIT :limit FOR UPDATE OF l SKIP LOCKED
            )
            UPDATE capture_leases l
            SET owner = :owner, epoch = l.epoch + 1, {_HELD}
            FROM taken WHERE l.request_id = taken.request_id
            RETURNING l.request_id, l.epoch
            """),  # noqa: S608 - constants of this module
            {"owner": owner, "ttl": ttl, "limit": limit},
        )
        return [Claim(row.request_id, row.epoch, resumed=True) for row in rows]

    async def renew(self, owner: str, ttl: float, claims: Sequence[Claim]) -> Renewed:
        """Renews all claims in one statement. Those that it does not find again under their epoch are lost.

        A lease that a transaction holds at this moment is left out instead of waited for: one that stalls would keep
        all others from being renewed. A lease that lapsed and that nobody took is ours again: its epoch says so.
        """
        rows = await self.session.execute(
            sql(f"""
            WITH asked AS (
                SELECT request_id, epoch FROM unnest(CAST(:ids AS uuid[]), CAST(:epochs AS bigint[])) AS c(request_id, epoch)
            ), mine AS (
                SELECT l.request_id FROM capture_leases l JOIN asked USING (request_id, epoch)
                WHERE l.owner = :owner ORDER BY l.request_id FOR UPDATE OF l SKIP LOCKED
            ), renewed AS (
                UPDATE capture_leases l SET {_HELD}
                FROM mine WHERE l.request_id = mine.request_id RETURNING l.request_id
            )
            SELECT l.request_id, renewed.request_id IS NOT NULL AS done, r.cancel_requested_at IS NOT NULL AS cancel
            FROM capture_leases l JOIN asked USING (request_id, epoch) JOIN ingestion_requests r ON r.id = l.request_id
            LEFT JOIN renewed ON renewed.request_id = l.request_id
            WHERE l.owner = :owner
            """),  # noqa: S608 - a constant of this module
            {
                "owner": owner, "ttl": ttl,
                "ids": [claim.request_id for claim in claims], "epochs": [claim.epoch for claim in claims],
            },
        )  # fmt: skip
        found = rows.all()
        return Renewed(
            ours=frozenset(row.request_id for row in found if row.done),
            busy=frozenset(row.request_id for row in found if not row.done),
            cancelled=frozenset(row.request_id for row in found if row.cancel),
        )

    async def hand_back(self, claim: Claim) -> None:
        """Lets anybody claim the capture at once."""
        await self.session.execute(
            sql(
                "UPDATE capture_leases SET owner = NULL, expires_at = NULL, claimed_at = now() "
                "WHERE request_id = :id AND epoch = :epoch"
            ),
            {"id": claim.request_id, "epoch": claim.epoch},
        )

    async def owners(self, request_ids: Sequence[UUID]) -> dict[UUID, str]:
        """Who runs which of the requests now."""
        rows = await self.session.execute(
            sql(f"SELECT request_id, owner FROM capture_leases l WHERE request_id = ANY(:ids) AND NOT {LAPSED}"),  # noqa: S608
            {"ids": list(request_ids)},
        )
        return {row.request_id: row.owner for row in rows}

    async def of_group(self, group_id: UUID, owner: str) -> list[tuple[CaptureLease, float]]:
        """The first leases of a burst's requests that `owner` was given, and how many seconds ago."""
        age = func.extract("epoch", func.clock_timestamp() - CaptureLease.claimed_at)
        query = (
            select(CaptureLease, age)
            .join(IngestionRequest, IngestionRequest.id == CaptureLease.request_id)
            .where(IngestionRequest.group_id == group_id, CaptureLease.owner == owner, CaptureLease.epoch == 1)
        )
        return [(lease, float(seconds)) for lease, seconds in (await self.session.execute(query)).all()]

    async def of_claims(self, claims: Sequence[Claim]) -> dict[UUID, CaptureLease]:
        """The leases of claimed captures, as far as they are still there."""
        query = self.select().where(CaptureLease.request_id.in_([claim.request_id for claim in claims]))
        return {row.request_id: row for row in await self.session.scalars(query)} if claims else {}
