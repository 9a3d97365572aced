"""Leases: who runs which capture. Only the database's clock decides when one has lapsed (rule 3)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import select, text

from models.entities import CaptureLease
from models.values import Claim
from repositories.base import Repository

# A lease that ends further ahead than a lease can be was written by a clock that was wrong: lapsed as well.
_LAPSED = "(l.expires_at IS NULL OR l.expires_at < now() OR l.expires_at > now() + make_interval(secs => :ttl))"


class LeaseRepository(Repository[CaptureLease]):
    entity = CaptureLease

    async def claim(self, owner: str, ttl: float, limit: int, running: dict[str, int], new_cameras: int) -> list[Claim]:
        """Takes up to `limit` captures that nobody runs, in fair order: a camera's second waits for every camera's first.

        `running` says how many captures of each camera this process runs already; of cameras that it has no
        stream of, at most `new_cameras` are taken. Locks in id order, skips what another process takes meanwhile.
        """
        rows = await self.session.execute(
            text(f"""
            WITH running AS (SELECT key AS camera_id, value::int AS n FROM jsonb_each_text(CAST(:running AS jsonb))),
            free AS (
                SELECT l.request_id, l.camera_id, r.n,
                       row_number() OVER (PARTITION BY l.camera_id ORDER BY l.request_id) AS turn,
                       first_value(l.request_id) OVER (PARTITION BY l.camera_id ORDER BY l.request_id) AS first_id
                FROM capture_leases l LEFT JOIN running r USING (camera_id)
                WHERE {_LAPSED}
            ),
            ranked AS (
                SELECT request_id, n, turn + coalesce(n, 0) AS turn,
                       dense_rank() OVER (PARTITION BY n IS NULL ORDER BY first_id) AS camera_rank
                FROM free
            ),
            due AS (
                SELECT request_id FROM ranked WHERE n IS NOT NULL OR camera_rank <= :new_cameras
                ORDER BY turn, request_id LIMIT :limit
            ),
            taken AS (
                SELECT l.request_id FROM capture_leases l
                WHERE l.request_id IN (SELECT request_id FROM due) AND {_LAPSED}
                ORDER BY l.request_id FOR UPDATE SKIP LOCKED
            )
            UPDATE capture_leases l
            SET owner = :owner, epoch = l.epoch + 1, expires_at = now() + make_interval(secs => :ttl)
            FROM taken WHERE l.request_id = taken.request_id
            RETURNING l.request_id, l.epoch
            """),  # noqa: S608 - _LAPSED is a constant of this module
            {"owner": owner, "ttl": ttl, "limit": limit, "running": json.dumps(running), "new_cameras": new_cameras},
        )
        return [Claim(row.request_id, row.epoch, resumed=row.epoch > 1) for row in rows]

    async def add_held(self, owner: str, ttl: float, cameras: Mapping[UUID, str]) -> None:
        """Leases of new captures (by id: the camera) that `owner` has from the start, with epoch 1.

        Running it twice changes nothing (rule 4).
        """
        await self.session.execute(
            text("""
            INSERT INTO capture_leases (request_id, camera_id, owner, epoch, expires_at)
            SELECT request_id, camera_id, :owner, 1, now() + make_interval(secs => :ttl)
            FROM unnest(CAST(:ids AS uuid[]), CAST(:cameras AS text[])) AS new(request_id, camera_id)
            ON CONFLICT DO NOTHING
            """),
            {"owner": owner, "ttl": ttl, "ids": list(cameras), "cameras": list(cameras.values())},
        )

    async def held(self, owner: str, request_ids: Sequence[UUID]) -> set[UUID]:
        """Which of these captures `owner` has had from the start (epoch 1)."""
        query = select(CaptureLease.request_id).where(
            CaptureLease.request_id.in_(request_ids), CaptureLease.owner == owner, CaptureLease.epoch == 1
        )
        return set((await self.session.scalars(query)).all())

    async def renew(self, owner: str, ttl: float, claims: Sequence[Claim]) -> tuple[set[UUID], set[UUID]]:
        """Renews all claims in one statement: (still ours, of those: asked to cancel). Others are lost."""
        rows = await self.session.execute(
            text("""
            WITH mine AS (
                SELECT l.request_id FROM capture_leases l
                JOIN unnest(CAST(:ids AS uuid[]), CAST(:epochs AS bigint[])) AS c(request_id, epoch)
                  ON c.request_id = l.request_id AND c.epoch = l.epoch
                WHERE l.owner = :owner ORDER BY l.request_id FOR UPDATE OF l
            ), renewed AS (
                UPDATE capture_leases l SET expires_at = now() + make_interval(secs => :ttl)
                FROM mine WHERE l.request_id = mine.request_id RETURNING l.request_id
            )
            SELECT r.id, r.cancel_requested_at IS NOT NULL AS cancel
            FROM renewed JOIN ingestion_requests r ON r.id = renewed.request_id
            """),
            {
                "owner": owner, "ttl": ttl,
                "ids": [claim.request_id for claim in claims], "epochs": [claim.epoch for claim in claims],
            },
        )  # fmt: skip
        found = rows.all()
        return {row.id for row in found}, {row.id for row in found if row.cancel}

    async def hand_back(self, claim: Claim) -> None:
        """Lets anybody claim the capture at once."""
        await self.session.execute(
            text("UPDATE capture_leases SET owner = NULL, expires_at = NULL WHERE request_id = :id AND epoch = :epoch"),
            {"id": claim.request_id, "epoch": claim.epoch},
        )

    async def fence(self, claim: Claim) -> bool:
        """Locks the lease if `claim` is the newest epoch; False when another owner has taken over."""
        found = await self.session.scalar(
            text("SELECT 1 FROM capture_leases WHERE request_id = :id AND epoch = :epoch FOR UPDATE"),
            {"id": claim.request_id, "epoch": claim.epoch},
        )
        return found is not None

    async def camera_ids(self, claims: Sequence[Claim]) -> dict[UUID, str]:
        """The cameras of claimed captures."""
        query = select(CaptureLease.request_id, CaptureLease.camera_id).where(
            CaptureLease.request_id.in_([claim.request_id for claim in claims])
        )
        return {row.request_id: row.camera_id for row in (await self.session.execute(query)).all()} if claims else {}
