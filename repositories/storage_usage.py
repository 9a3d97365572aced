"""How much is stored: a total, and the changes since (migration 0008)."""

from __future__ import annotations

from typing import NamedTuple

from models.entities import StorageUsage
from repositories.base import Repository
from repositories.sql import sql

_AT_ONCE = 20_000  # changes summed up in one statement


class Usage(NamedTuple):
    bytes: int
    frames: int


class StorageUsageRepository(Repository[StorageUsage]):
    entity = StorageUsage

    async def fold(self) -> int:
        """Sums up the oldest changes; returns how many. One at a time."""
        done = await self.session.scalar(
            sql(
                "WITH oldest AS (SELECT id FROM storage_changes ORDER BY id LIMIT :n FOR UPDATE SKIP LOCKED), "
                "gone AS (DELETE FROM storage_changes c USING oldest WHERE c.id = oldest.id RETURNING c.bytes, c.frames), "
                "total AS (SELECT coalesce(sum(bytes), 0) AS b, coalesce(sum(frames), 0) AS f, count(*) AS n FROM gone), "
                "done AS (UPDATE storage_usage SET bytes = bytes + b, frames = frames + f FROM total WHERE n > 0) "
                "SELECT n FROM total"
            ),
            {"n": _AT_ONCE},
        )
        return int(done or 0)

    async def read(self) -> Usage:
        """What is stored now, in one snapshot."""
        row = (
            await self.session.execute(
                sql(
                    "SELECT u.bytes + coalesce(c.b, 0), u.frames + coalesce(c.f, 0) FROM storage_usage u, "
                    "(SELECT sum(bytes) AS b, sum(frames) AS f FROM storage_changes) AS c"
                )
            )
        ).one()
        return Usage(int(row[0]), int(row[1]))
