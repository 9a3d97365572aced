"""Pairs of frames: one per two frames and label, read only by who sees both cameras, aligned under a lease."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from models.access import CameraGrant
from models.entities import Frame, Pair
from models.values import AlignmentStatus, PairFilter, PairSide
from repositories.base import Key, Repository
from repositories.grants import granted
from repositories.meta_filters import META_INDEXED, meta_condition, meta_filters
from repositories.sql import sql

_PENDING = AlignmentStatus.PENDING.value


def _seen(cameras: CameraGrant) -> ColumnElement[bool]:
    return and_(granted(Pair.before_camera, cameras), granted(Pair.after_camera, cameras))


class PairRepository(Repository[Pair]):
    entity = Pair

    async def visible(self, pair_id: UUID, cameras: CameraGrant) -> Pair | None:
        """The pair, if both of its cameras are among `cameras`."""
        return (await self.session.scalars(self.select().where(Pair.id == pair_id, _seen(cameras)))).one_or_none()

    async def of_frames(self, before_id: UUID, after_id: UUID, label: str | None) -> Pair | None:
        """The pair that these frames are already, under this label."""
        query = self.select().where(
            Pair.before_id == before_id, Pair.after_id == after_id, func.coalesce(Pair.label, "") == (label or "")
        )
        return (await self.session.scalars(query)).one_or_none()

    async def create(self, values: Mapping[str, Any], request_ids: Sequence[UUID]) -> Pair | None:
        """The pair, inserted unless it is there. None when one of the frames is not stored any more.

        The frames' requests are locked first, as a delete does: one that has begun is waited for, a later one sees the pair.
        """
        lock = sql("SELECT 1 FROM ingestion_requests WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR SHARE")
        await self.session.execute(lock, {"ids": sorted(set(request_ids))})
        both = select(func.count()).select_from(Frame).where(
            Frame.id.in_([values["before_id"], values["after_id"]]), Frame.state == "stored"
        )  # fmt: skip
        if await self.session.scalar(both) != 2:
            return None
        await self.session.execute(insert(Pair).values(**values).on_conflict_do_nothing())
        return await self.of_frames(values["before_id"], values["after_id"], values["label"])

    async def find(self, wanted: PairFilter, cameras: CameraGrant, *, after: Key | None, limit: int) -> list[Pair]:
        """Newest first."""
        query = self.select().where(_seen(cameras))
        if wanted.label is not None:
            query = query.where(Pair.label == wanted.label)
        if wanted.subject is not None:
            query = query.where(Pair.subject == wanted.subject)
        if wanted.session is not None:
            head = sql(f"left(session, {META_INDEXED}) = :head").bindparams(head=wanted.session[:META_INDEXED])
            query = query.where(head, Pair.session == wanted.session)
        if wanted.camera_id is not None:
            query = query.where(or_(Pair.before_camera == wanted.camera_id, Pair.after_camera == wanted.camera_id))
        if wanted.from_ is not None:
            query = query.where(Pair.created_at >= wanted.from_)
        if wanted.to is not None:
            query = query.where(Pair.created_at < wanted.to)
        return await self.page(query, (Pair.created_at, Pair.id), after=after, limit=limit, descending=True)

    async def remove(self, pair_id: UUID, cameras: CameraGrant) -> bool:
        gone = delete(Pair).where(Pair.id == pair_id, _seen(cameras)).returning(Pair.id)
        return await self.session.scalar(gone) is not None

    # -- alignment ---------------------------------------------------------------------------------------------

    async def lease(self, seconds: float) -> Pair | None:
        """The oldest pair that waits for its alignment and that nobody is at; it is the caller's for `seconds`."""
        free = select(Pair.id).where(
            Pair.status == _PENDING, or_(Pair.leased_until.is_(None), Pair.leased_until < func.now())
        ).order_by(Pair.created_at, Pair.id).limit(1).with_for_update(skip_locked=True)  # fmt: skip
        until = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        taken = update(Pair).where(Pair.id == free.scalar_subquery()).values(
            leased_until=until, attempts=Pair.attempts + 1
        ).returning(Pair)  # fmt: skip
        return (await self.session.scalars(taken)).one_or_none()

    async def save(self, pair_id: UUID, status: AlignmentStatus, alignment: Mapping[str, Any]) -> None:
        """The end of a pending alignment; of one that has ended: nothing."""
        await self.session.execute(
            update(Pair)
            .where(Pair.id == pair_id, Pair.status == _PENDING)
            .values(status=status.value, alignment=dict(alignment), leased_until=None)
        )

    # -- candidates --------------------------------------------------------------------------------------------

    async def candidates(self, side: PairSide, cameras: CameraGrant, limit: int) -> list[Frame]:
        """Stored frames of one side of a match, by capture time."""
        query = select(Frame).where(Frame.state == "stored", granted(Frame.camera_id, cameras))
        if side.camera_ids is not None:
            query = query.where(Frame.camera_id.in_(side.camera_ids))
        for key, head, value in meta_filters(side):
            names = {f"{key}_head": head, key: value}
            query = query.where(sql(meta_condition(key, *(f":{name}" for name in names))).bindparams(**names))
        if side.from_ is not None:
            query = query.where(Frame.capture_timestamp >= side.from_)
        if side.to is not None:
            query = query.where(Frame.capture_timestamp < side.to)
        query = query.order_by(Frame.capture_timestamp, Frame.id).limit(limit)
        return list((await self.session.scalars(query)).all())
