"""Registered cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from models.access import CameraGrant
from models.entities import CameraConfiguration, CaptureLease, DeletedCamera
from repositories.base import AnyKey, Repository
from repositories.grants import granted
from repositories.sql import sql


class CameraConfigRepository(Repository[CameraConfiguration]):
    entity = CameraConfiguration

    async def create(self, values: Mapping[str, Any]) -> CameraConfiguration:
        """Inserts the camera unless its id is taken; returns the row that holds the id."""
        await self.session.execute(insert(CameraConfiguration).values(**values).on_conflict_do_nothing())
        query = self.select().where(CameraConfiguration.camera_id == values["camera_id"])
        return (await self.session.scalars(query)).one()

    async def find(self, cameras: CameraGrant, *, after: AnyKey | None, limit: int) -> list[CameraConfiguration]:
        """Those of `cameras`, in the order of their registration."""
        by = (CameraConfiguration.created_at, CameraConfiguration.camera_id)
        query = self.select().where(granted(CameraConfiguration.camera_id, cameras))
        return await self.page(query, by, after=after, limit=limit, descending=False)

    async def named(self, camera_ids: Sequence[str]) -> dict[str, CameraConfiguration]:
        """Those of the cameras that there are, by id."""
        query = self.select().where(CameraConfiguration.camera_id.in_(camera_ids))
        return {row.camera_id: row for row in await self.session.scalars(query)}

    async def exif_timezone(self, camera_id: str) -> str | None:
        """The camera's time zone of EXIF times, where it is registered and has one."""
        query = select(CameraConfiguration.exif_timezone).where(CameraConfiguration.camera_id == camera_id)
        return await self.session.scalar(query)

    async def kept_open(self, limit: int, site: str) -> list[CameraConfiguration]:
        """Enabled cameras of the site whose streams are to be kept open."""
        kept = CameraConfiguration.enabled, CameraConfiguration.keep_open, CameraConfiguration.site == site
        query = self.select().where(*kept)
        return list((await self.session.scalars(query.order_by(CameraConfiguration.camera_id).limit(limit))).all())

    async def count_kept_by(self, owner: str, at_most: int) -> int:
        """How many cameras one principal keeps open, counted no further than `at_most`."""
        mine = CameraConfiguration.keep_open, CameraConfiguration.kept_by == owner
        kept = select(CameraConfiguration.camera_id).where(*mine).limit(at_most)
        return int(await self.session.scalar(select(func.count()).select_from(kept.subquery())) or 0)

    async def locked(self, camera_id: str) -> CameraConfiguration | None:
        """The camera, nobody else's to change until the transaction ends."""
        query = self.select().where(CameraConfiguration.camera_id == camera_id).with_for_update()
        return (await self.session.scalars(query.execution_options(populate_existing=True))).one_or_none()

    async def hold_all(self, camera_ids: Sequence[str]) -> bool:
        """Whether all of the cameras are there; none can be deleted until the transaction ends."""
        found = await self.session.scalars(
            sql(
                "SELECT camera_id FROM camera_configurations WHERE camera_id = ANY(CAST(:ids AS text[])) "
                "ORDER BY camera_id FOR KEY SHARE"
            ),
            {"ids": list(camera_ids)},
        )
        return len(found.all()) == len(camera_ids)

    async def hold(self, camera_id: str) -> bool:
        """Whether the camera is there; it cannot be deleted until the transaction ends."""
        found = await self.session.scalar(
            sql("SELECT 1 FROM camera_configurations WHERE camera_id = :id FOR KEY SHARE"), {"id": camera_id}
        )
        return found is not None

    async def change(self, camera_id: str, values: Mapping[str, Any]) -> CameraConfiguration:
        """Writes the values of a locked camera; returns it as it then is."""
        await self.session.execute(
            update(CameraConfiguration)
            .where(CameraConfiguration.camera_id == camera_id)
            .values(**values, updated_at=func.now())
        )
        return await self.session.get_one(CameraConfiguration, camera_id, populate_existing=True)

    async def in_use(self, camera_id: str) -> bool:
        """Whether captures of the camera wait or run: exactly those have a lease row."""
        found = await self.session.scalar(
            select(CaptureLease.request_id).where(CaptureLease.camera_id == camera_id).limit(1)
        )
        return found is not None

    async def remove(self, camera_id: str) -> None:
        """Removes the camera; remembers that its id was registered, and how long its frames are kept."""
        gone = delete(CameraConfiguration).where(CameraConfiguration.camera_id == camera_id)
        days = await self.session.scalar(gone.returning(CameraConfiguration.retention_days))
        kept = insert(DeletedCamera).values(camera_id=camera_id, retention_days=days)
        await self.session.execute(
            kept.on_conflict_do_update(index_elements=["camera_id"], set_={"retention_days": kept.excluded.retention_days})
        )

    async def left_frames(self, camera_id: str) -> bool:
        """Whether a camera of this id was removed, and frames of it are still there."""
        found = await self.session.scalar(
            sql(
                "SELECT 1 FROM deleted_cameras d WHERE d.camera_id = :id AND EXISTS "
                "(SELECT 1 FROM frames f WHERE f.camera_id = d.camera_id AND f.state = 'stored')"
            ),
            {"id": camera_id},
        )
        return found is not None
