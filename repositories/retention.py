"""How long frames are kept (one row, whatever processes' settings say), and how many of a camera may go in a day."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import select

from models.entities import CameraConfiguration, DeletedCamera, RetentionPolicy
from repositories.base import Repository
from repositories.sql import sql

COUNT_TO = 6_000_000  # frames of a camera are counted no further: a lower count lets fewer be deleted


class Policy(NamedTuple):
    """RETENTION__DAYS, RETENTION__MAX_BYTES, RETENTION__MAX_SHARE_PER_DAY as they stand in the database."""

    days: float | None
    max_bytes: int | None
    max_share_per_day: float


class RetentionRepository(Repository[RetentionPolicy]):
    entity = RetentionPolicy

    async def policy(self) -> Policy | None:
        """None before the first start has written it."""
        query = select(RetentionPolicy.days, RetentionPolicy.max_bytes, RetentionPolicy.max_share_per_day)
        found = (await self.session.execute(query)).one_or_none()
        return Policy(*found) if found is not None else None

    async def set_policy(self, policy: Policy, *, replace: bool) -> None:
        """Writes the row; without `replace` only where there is none."""
        over = (
            "DO UPDATE SET days = excluded.days, max_bytes = excluded.max_bytes, "
            "max_share_per_day = excluded.max_share_per_day, set_at = now()"
        )
        await self.session.execute(
            sql(
                "INSERT INTO retention_policy (id, days, max_bytes, max_share_per_day) "  # noqa: S608 - constants
                f"VALUES (1, :days, :max_bytes, :share) ON CONFLICT (id) {over if replace else 'DO NOTHING'}"
            ),
            {"days": policy.days, "max_bytes": policy.max_bytes, "share": policy.max_share_per_day},
        )

    async def days_of(self, camera_id: str) -> float | None:
        """The camera's own `retention_days`, also when it is registered no more; None without any."""
        registered = select(CameraConfiguration.retention_days).where(CameraConfiguration.camera_id == camera_id)
        found = (await self.session.scalars(registered)).all()
        if found:
            return found[0]
        return await self.session.scalar(select(DeletedCamera.retention_days).where(DeletedCamera.camera_id == camera_id))

    async def take(self, camera_id: str, wanted: int, share: float, *, recount: bool) -> int:
        """How many of `wanted` frames of the camera may be deleted now; they count as deleted today (UTC) from here on.

        In a day at most `share` of the frames that the camera has had on it: those stored, counted by the day's first call
        and by those that say `recount`, and those deleted. Run again after an unknown COMMIT it counts twice, which lets
        fewer be deleted, never more.
        """
        found = (
            await self.session.execute(
                sql(
                    "SELECT frames, deleted, day = CAST(now() AT TIME ZONE 'UTC' AS date) AS today FROM retention_tallies "
                    "WHERE camera_id = :id FOR UPDATE"
                ),
                {"id": camera_id},
            )
        ).one_or_none()
        deleted = int(found.deleted) if found is not None and found.today else 0
        frames = int(found.frames) if found is not None and found.today else None
        if frames is None or (recount and _allowed(frames, share) - deleted < wanted):
            frames = deleted + await self._stored(camera_id)
        granted = max(0, min(wanted, _allowed(frames, share) - deleted))
        await self.session.execute(
            sql(
                "INSERT INTO retention_tallies (camera_id, day, frames, deleted, capped) "
                "VALUES (:id, CAST(now() AT TIME ZONE 'UTC' AS date), :frames, :deleted, :capped) "
                "ON CONFLICT (camera_id) DO UPDATE SET day = excluded.day, frames = excluded.frames, "
                "deleted = excluded.deleted, capped = excluded.capped"
            ),
            {"id": camera_id, "frames": frames, "deleted": deleted + granted, "capped": granted < wanted},
        )
        return granted

    async def capped(self) -> list[str]:
        """Cameras of which more was to be deleted today than may be."""
        rows = await self.session.execute(
            sql(
                "SELECT camera_id FROM retention_tallies "
                "WHERE capped AND day = CAST(now() AT TIME ZONE 'UTC' AS date) ORDER BY camera_id"
            )
        )
        return [str(row.camera_id) for row in rows]

    async def _stored(self, camera_id: str) -> int:
        found = await self.session.scalar(
            sql(
                "SELECT count(*) FROM (SELECT 1 FROM frames WHERE camera_id = :id AND state = 'stored' LIMIT :n) AS counted"
            ),
            {"id": camera_id, "n": COUNT_TO},
        )
        return int(found or 0)


def _allowed(frames: int, share: float) -> int:
    """At least one, so that a camera's last frames go in the end."""
    return max(1, int(frames * share)) if frames else 0
