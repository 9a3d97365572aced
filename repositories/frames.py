"""Frames: reads by time, holds, and the two-step delete that leaves a tombstone.

Longer than 250 lines: every statement on the frames table but the insert, so that a condition (grant, state, hold) that
one of them needs is read beside the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, delete, exists, func, or_, select, update

from models.access import ACTOR, CameraGrant
from models.entities import Audit, Frame, ObjectKey, Pair
from models.values import Integrity
from repositories.base import Key, Repository
from repositories.grants import granted
from repositories.sql import sql
from utils.exceptions import FrameInPair, FrameOnHold


class Old(NamedTuple):
    """A stored frame that retention may delete; (stored_at, id) is its place in line."""

    stored_at: datetime
    id: UUID
    request_id: UUID
    size_bytes: int
    camera_id: str


class Promise(NamedTuple):
    """What a stored frame's row says of its object; (stored_at, id) is its place in line."""

    stored_at: datetime
    id: UUID
    key: str
    size_bytes: int
    sha256: str


class Removal(NamedTuple):
    """A frame that is being deleted, and its object's key."""

    id: UUID
    key: str


def _before(seconds: float) -> ColumnElement[datetime]:
    """That many seconds ago, by the database's clock."""
    return func.now() - func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _in_pair() -> ColumnElement[bool]:
    return or_(exists().where(Pair.before_id == Frame.id), exists().where(Pair.after_id == Frame.id))


class FrameRepository(Repository[Frame]):
    entity = Frame

    async def get_stored(self, frame_id: UUID, cameras: CameraGrant) -> Frame | None:
        """The frame of one of `cameras`, unless it is deleted or being deleted."""
        frame = await self.get(frame_id)
        seen = frame is not None and frame.state == "stored" and cameras.covers(frame.camera_id)
        return frame if seen else None

    async def of_request(self, request_id: UUID, *, newest_first: bool, limit: int) -> list[Frame]:
        """A request's stored frames by sequence."""
        order = Frame.sequence.desc() if newest_first else Frame.sequence.asc()
        query = self.select().where(Frame.request_id == request_id, Frame.state == "stored").order_by(order).limit(limit)
        return list((await self.session.scalars(query)).all())

    async def by_ids(self, frame_ids: Sequence[UUID]) -> list[Frame]:
        """The frames with these ids, those that were deleted too, in any order."""
        return list((await self.session.scalars(self.select().where(Frame.id.in_(frame_ids)))).all())

    async def first_of(self, request_ids: Sequence[UUID]) -> dict[UUID, Frame]:
        """The stored frames in slot 0, by request: those of single_frame captures."""
        query = self.select().where(Frame.request_id.in_(request_ids), Frame.sequence == 0, Frame.state == "stored")
        return {frame.request_id: frame for frame in await self.session.scalars(query)}

    async def sequences(self, request_id: UUID) -> set[int]:
        """The slots that have a frame, deleted ones included."""
        return set((await self.session.scalars(select(Frame.sequence).where(Frame.request_id == request_id))).all())

    async def nearest(self, camera_id: str, at: datetime, cameras: CameraGrant) -> Frame | None:
        """The camera's stored frame closest to `at`; of two as close, the earlier. None for a camera not of `cameras`."""
        if not cameras.covers(camera_id):
            return None
        mine = self.select().where(Frame.state == "stored", Frame.camera_id == camera_id)
        before = mine.where(Frame.capture_timestamp <= at).order_by(Frame.capture_timestamp.desc(), Frame.id.desc()).limit(1)
        after = mine.where(Frame.capture_timestamp > at).order_by(Frame.capture_timestamp.asc(), Frame.id.asc()).limit(1)
        found = [row for query in (before, after) if (row := await self.session.scalar(query)) is not None]
        return min(found, key=lambda frame: abs(frame.capture_timestamp - at), default=None)

    async def newest(self, camera_id: str, cameras: CameraGrant) -> Frame | None:
        """The camera's stored frame with the latest capture time. None for a camera not of `cameras`."""
        if not cameras.covers(camera_id):
            return None
        mine = self.select().where(Frame.state == "stored", Frame.camera_id == camera_id)
        return await self.session.scalar(mine.order_by(Frame.capture_timestamp.desc(), Frame.id.desc()).limit(1))

    # -- deleting ----------------------------------------------------------------------------------------------

    async def begin_delete(self, frame_id: UUID, cameras: CameraGrant, *, pairs: bool = False) -> str | None:
        """Marks a stored frame as being deleted and lowers its request's total; returns the object's key.

        None when there is nothing left to delete, or the frame's camera is not of `cameras`. A frame that is already
        `deleting` gives its key again, so that a delete that was cut off is finished by the next one.
        `pairs`: a frame in pairs too; they go with it. Raises FrameOnHold, FrameInPair.
        """
        mine = granted(Frame.camera_id, cameras)
        request_id = await self.session.scalar(select(Frame.request_id).where(Frame.id == frame_id, mine))
        if request_id is None:
            return None
        if marked := await self.begin_deletes(request_id, [frame_id], pairs=pairs):
            return marked[0].key
        query = select(Frame.state, Frame.storage_path, Frame.held_at).where(Frame.id == frame_id)
        left = (await self.session.execute(query)).one()
        if left.state == "stored":
            raise FrameOnHold if left.held_at is not None else FrameInPair
        return str(left.storage_path) if left.state == "deleting" else None

    async def begin_deletes(
        self, request_id: UUID, frame_ids: Sequence[UUID], older_than_s: float | None = None, *, pairs: bool = False
    ) -> list[Removal]:
        """Marks those frames of one request that are still stored, on no hold and in no pair; lowers the request's total.

        `pairs`: those in pairs too, and their pairs are removed.

        `older_than_s`: only those stored longer ago than that. State, hold and age are those of the moment at which the
        row is written, not of the moment at which it was chosen: a frame put on hold since stays (docs/rules.md, rule 10).
        Triggers blank the rows and what copies of them there are (functions/blank_frame.sql, blank_copies.sql).
        """
        await self.session.execute(
            sql("SELECT 1 FROM ingestion_requests WHERE id = :id FOR NO KEY UPDATE"), {"id": request_id}
        )
        marking = update(Frame).where(
            Frame.id.in_(frame_ids), Frame.request_id == request_id, Frame.state == "stored", Frame.held_at.is_(None)
        )
        if not pairs:
            marking = marking.where(~_in_pair())
        if older_than_s is not None:
            marking = marking.where(Frame.stored_at < _before(older_than_s))
        rows = await self.session.execute(marking.values(state="deleting").returning(Frame.id, Frame.storage_path))
        marked = [Removal(row.id, row.storage_path) for row in rows]
        if marked and pairs:
            gone = [item.id for item in marked]
            await self.session.execute(delete(Pair).where(or_(Pair.before_id.in_(gone), Pair.after_id.in_(gone))))
        if marked:
            await self.session.execute(
                sql("UPDATE ingestion_requests SET deleted = deleted + :n, updated_at = now() WHERE id = :id"),
                {"id": request_id, "n": len(marked)},
            )
        return marked

    async def finish_deletes(self, gone: Sequence[Removal]) -> None:
        """The objects are gone: rows stay as their slots' tombstones, the keys are free to forget (never reused)."""
        ids = sorted(item.id for item in gone)
        # In one order: two processes may be finishing the same ones.
        await self.session.execute(select(Frame.id).where(Frame.id.in_(ids)).order_by(Frame.id).with_for_update())
        await self.session.execute(update(Frame).where(Frame.id.in_(ids), Frame.state == "deleting").values(state="deleted"))
        await self.session.execute(delete(ObjectKey).where(ObjectKey.key.in_([item.key for item in gone])))

    async def deleting(self, *, limit: int, older_than_s: float) -> list[Removal]:
        """Deletes that were begun and not finished; `older_than_s`: of frames stored longer ago than that."""
        query = (
            select(Frame.id, Frame.storage_path)
            .where(Frame.state == "deleting", Frame.stored_at < _before(older_than_s))
            .order_by(Frame.stored_at)
            .limit(limit)
        )
        return [Removal(row.id, row.storage_path) for row in (await self.session.execute(query)).all()]

    # -- retention ---------------------------------------------------------------------------------------------

    async def next_camera(self, after: str) -> str | None:
        """The camera with stored frames that comes after `after` (any string, "" at first); None: no more."""
        query = select(Frame.camera_id).where(Frame.state == "stored", Frame.camera_id > after)
        return await self.session.scalar(query.order_by(Frame.camera_id).limit(1))

    async def oldest(
        self, *, after: Key | None, limit: int, camera_id: str | None = None, older_than_s: float | None = None,
        but: Sequence[str] = (),
    ) -> list[Old]:  # fmt: skip
        """Stored frames that are on no hold and in no pair, those first that were stored first, after `after`. Not of the
        cameras `but`."""
        query = select(Frame.stored_at, Frame.id, Frame.request_id, Frame.size_bytes, Frame.camera_id).where(
            Frame.state == "stored", Frame.held_at.is_(None), ~_in_pair()
        )
        if camera_id is not None:
            query = query.where(Frame.camera_id == camera_id)
        if but:
            query = query.where(Frame.camera_id.not_in(but))
        if older_than_s is not None:
            query = query.where(Frame.stored_at < _before(older_than_s))
        if after is not None:
            query = query.where(sql("(stored_at, id) > (:at, :id)").bindparams(at=after[0], id=after[1]))
        rows = await self.session.execute(query.order_by(Frame.stored_at, Frame.id).limit(limit))
        return [Old(*row) for row in rows]

    async def note_decoded(self, frame_id: UUID, found: Integrity, quality: dict[str, Any] | None) -> bool:
        """What a stored frame's decoding showed, where it is not known yet; False where somebody has decoded it before."""
        stored = update(Frame).where(Frame.id == frame_id, Frame.state == "stored")
        changed = await self.session.scalar(
            stored.where(Frame.integrity == Integrity.UNDECODED).values(integrity=found).returning(Frame.id)
        )
        if quality is not None:
            await self.session.execute(stored.where(Frame.quality.is_(None)).values(quality=quality))
        return changed is not None

    # -- holds -------------------------------------------------------------------------------------------------

    async def hold(self, frame_id: UUID, reason: str | None, cameras: CameraGrant) -> Frame | None:
        """Puts a stored frame on hold, with an audit row; the frame as it then is, None when it is not stored, or
        its camera is not of `cameras`.

        One that is on hold already stays so since when it was; a reason, when there is one, replaces the former.
        """
        if await self.get_stored(frame_id, cameras) is None:
            return None
        fresh = await self.session.scalar(
            update(Frame)
            .where(Frame.id == frame_id, Frame.state == "stored", Frame.held_at.is_(None))
            .values(held_at=func.now(), hold_reason=reason)
            .returning(Frame.id)
        )
        if fresh is None and reason is not None:
            fresh = await self.session.scalar(
                update(Frame)
                .where(
                    Frame.id == frame_id, Frame.state == "stored", Frame.held_at.is_not(None),
                    Frame.hold_reason.is_distinct_from(reason),
                )
                .values(hold_reason=reason)
                .returning(Frame.id)
            )  # fmt: skip
        if fresh is not None:
            self._audit("frame.hold", frame_id, {"reason": reason} if reason else None)
        frame = await self.get_stored(frame_id, cameras)
        if frame is not None:
            await self.session.refresh(frame)
        return frame

    async def release(self, frame_id: UUID, cameras: CameraGrant) -> bool:
        """Ends a frame's hold, with an audit row; False when `cameras` have no such stored frame."""
        if await self.get_stored(frame_id, cameras) is None:
            return False
        freed = await self.session.scalar(
            update(Frame)
            .where(Frame.id == frame_id, Frame.held_at.is_not(None))
            .values(held_at=None, hold_reason=None)
            .returning(Frame.id)
        )
        if freed is not None:
            self._audit("frame.release", frame_id, None)
        return True

    def _audit(self, action: str, frame_id: UUID, details: dict[str, str] | None) -> None:
        actor = ACTOR.get()  # None while access is off: a hold is audited all the same
        named = {name: getattr(actor, name, None) for name in ("subject", "kind", "address", "trace_id", "status")}
        row = Audit(action=action, target=str(frame_id), details=details, **named)
        if actor is not None:
            row.keep_until = func.now() + timedelta(seconds=actor.keep)
        self.session.add(row)

    # -- verification ------------------------------------------------------------------------------------------

    async def by_age(self, *, after: Key | None, limit: int, camera_id: str | None, since: datetime | None) -> list[Promise]:
        """Stored frames in the order in which they were stored, from `after` on."""
        query = select(Frame.stored_at, Frame.id, Frame.storage_path, Frame.size_bytes, Frame.sha256).where(
            Frame.state == "stored"
        )
        if camera_id is not None:
            query = query.where(Frame.camera_id == camera_id)
        if since is not None:
            query = query.where(Frame.stored_at >= since)
        if after is not None:
            query = query.where(sql("(stored_at, id) > (:at, :id)").bindparams(at=after[0], id=after[1]))
        rows = await self.session.execute(query.order_by(Frame.stored_at, Frame.id).limit(limit))
        return [Promise(*row) for row in rows]
