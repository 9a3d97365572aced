"""Frames: reads by time, and the two-step delete that leaves a tombstone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, select, text, update

from models.entities import Frame, ObjectKey
from models.values import FrameFilter
from repositories.base import Key, Repository


class FrameRepository(Repository[Frame]):
    entity = Frame

    async def get_stored(self, frame_id: UUID) -> Frame | None:
        """The frame, unless it is deleted or being deleted."""
        frame = await self.get(frame_id)
        return frame if frame is not None and frame.state == "stored" else None

    async def find(self, wanted: FrameFilter, *, after: Key | None, limit: int) -> list[Frame]:
        """Stored frames by capture time."""
        query = self.select().where(Frame.state == "stored")
        if wanted.camera_id is not None:
            query = query.where(Frame.camera_id == wanted.camera_id)
        if wanted.request_id is not None:
            query = query.where(Frame.request_id == wanted.request_id)
        if wanted.source_type is not None:
            query = query.where(Frame.source_type == wanted.source_type.value)
        if wanted.from_ is not None:
            query = query.where(Frame.capture_timestamp >= wanted.from_)
        if wanted.to is not None:
            query = query.where(Frame.capture_timestamp < wanted.to)
        by = (Frame.capture_timestamp, Frame.id)
        return await self.page(query, by, after=after, limit=limit, descending=wanted.descending)

    async def of_request(self, request_id: UUID, *, newest_first: bool, limit: int) -> list[Frame]:
        """A request's stored frames by sequence."""
        order = Frame.sequence.desc() if newest_first else Frame.sequence.asc()
        query = self.select().where(Frame.request_id == request_id, Frame.state == "stored").order_by(order).limit(limit)
        return list((await self.session.scalars(query)).all())

    async def first_of(self, request_ids: Sequence[UUID]) -> dict[UUID, Frame]:
        """The stored frames in slot 0, by request: those of single_frame captures."""
        query = self.select().where(Frame.request_id.in_(request_ids), Frame.sequence == 0, Frame.state == "stored")
        return {frame.request_id: frame for frame in await self.session.scalars(query)}

    async def sequences(self, request_id: UUID) -> set[int]:
        """The slots that have a frame, deleted ones included."""
        return set((await self.session.scalars(select(Frame.sequence).where(Frame.request_id == request_id))).all())

    async def nearest(self, camera_id: str, at: datetime) -> Frame | None:
        """The camera's stored frame closest to `at`; of two as close, the earlier."""
        mine = self.select().where(Frame.state == "stored", Frame.camera_id == camera_id)
        before = mine.where(Frame.capture_timestamp <= at).order_by(Frame.capture_timestamp.desc(), Frame.id.desc()).limit(1)
        after = mine.where(Frame.capture_timestamp > at).order_by(Frame.capture_timestamp.asc(), Frame.id.asc()).limit(1)
        found = [row for query in (before, after) if (row := await self.session.scalar(query)) is not None]
        return min(found, key=lambda frame: abs(frame.capture_timestamp - at), default=None)

    async def begin_delete(self, frame_id: UUID) -> str | None:
        """Marks a stored frame as being deleted and lowers its request's total; returns the object's key.

        None when there is nothing left to delete. A frame that is already `deleting` gives its key again, so that
        a delete that was cut off is finished by the next one.
        """
        request_id = await self.session.scalar(select(Frame.request_id).where(Frame.id == frame_id))
        if request_id is None:
            return None
        await self.session.execute(
            text("SELECT 1 FROM ingestion_requests WHERE id = :id FOR NO KEY UPDATE"), {"id": request_id}
        )
        marked = await self.session.scalar(
            update(Frame)
            .where(Frame.id == frame_id, Frame.state == "stored")
            .values(state="deleting")
            .returning(Frame.storage_path)
        )
        if marked is not None:
            await self.session.execute(
                text("UPDATE ingestion_requests SET deleted = deleted + 1, updated_at = now() WHERE id = :id"),
                {"id": request_id},
            )
            return str(marked)
        return await self.session.scalar(select(Frame.storage_path).where(Frame.id == frame_id, Frame.state == "deleting"))

    async def finish_delete(self, frame_id: UUID, key: str) -> None:
        """The object is gone: the row stays as the slot's tombstone, the key is free to forget (never reused)."""
        await self.session.execute(
            update(Frame).where(Frame.id == frame_id, Frame.state == "deleting").values(state="deleted")
        )
        await self.session.execute(delete(ObjectKey).where(ObjectKey.key == key))

    async def deleting(self, *, limit: int, older_than_s: float) -> list[tuple[UUID, str]]:
        """Deletes that were begun and not finished."""
        query = (
            select(Frame.id, Frame.storage_path)
            .where(
                Frame.state == "deleting", Frame.stored_at < func.now() - func.make_interval(0, 0, 0, 0, 0, 0, older_than_s)
            )
            .order_by(Frame.stored_at)
            .limit(limit)
        )
        return [(row.id, row.storage_path) for row in (await self.session.execute(query)).all()]
