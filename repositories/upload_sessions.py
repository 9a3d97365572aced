"""Direct uploads: their rows, and the lease of the completion that runs. Times and ages by the database's clock.

Final states are absorbing: every change of state asks for `open` again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from models.access import ANONYMOUS, Principal
from models.entities import Json, UploadSession
from models.values import SessionState
from repositories.base import Repository
from repositories.grants import granted

_OPEN = UploadSession.state == SessionState.OPEN.value


def _idle(lease: float) -> ColumnElement[bool]:
    """Nobody completes it: the lease is gone, lapsed, or further ahead than one can be (the clock was set back)."""
    until = UploadSession.busy_until
    return or_(until.is_(None), until < func.now(), until > func.now() + timedelta(seconds=lease))


def _of(who: Principal) -> ColumnElement[bool]:
    """Whether the session is the principal's, and its camera still among his."""
    mine = granted(UploadSession.camera_id, who.cameras)
    if who is ANONYMOUS:
        return mine
    owned = UploadSession.owner == who.owner
    return and_(mine, or_(owned, UploadSession.owner.is_(None)) if who.admin else owned)


class UploadSessionRepository(Repository[UploadSession]):
    entity = UploadSession

    async def begin(self, row: UploadSession, ttl: float) -> UploadSession:
        """A new session that expires `ttl` seconds from now; running it twice changes nothing (docs/rules.md, rule 4)."""
        names = (
            "id", "request_id", "camera_id", "filename", "content_type", "size_bytes", "sha256", "meta", "part_size",
            "owner",
        )  # fmt: skip
        values = {name: getattr(row, name) for name in names}
        expires = func.now() + timedelta(seconds=ttl)
        await self.session.execute(insert(UploadSession).values(**values, expires_at=expires).on_conflict_do_nothing())
        return (await self.session.scalars(self.select().where(UploadSession.id == row.id))).one()

    async def count_open_of(self, owner: str, at_most: int) -> int:
        """How many of one principal are open, counted no further than `at_most`."""
        mine = (_OPEN, UploadSession.expires_at > func.now(), UploadSession.owner == owner)
        found = select(UploadSession.id).where(*mine).limit(at_most)
        return int(await self.session.scalar(select(func.count()).select_from(found.subquery())) or 0)

    async def count_open(self, at_most: int) -> int:
        """How many are open and have not expired, counted no further than `at_most`."""
        found = select(UploadSession.id).where(_OPEN, UploadSession.expires_at > func.now()).limit(at_most)
        return int(await self.session.scalar(select(func.count()).select_from(found.subquery())) or 0)

    async def now_and(self, session_id: UUID, who: Principal) -> tuple[Any, UploadSession] | None:
        """The database's time and the session, if it is the principal's."""
        query = select(func.now(), UploadSession).where(UploadSession.id == session_id, _of(who))
        row = (await self.session.execute(query)).first()
        return (row[0], row[1]) if row is not None else None

    async def owned(self, session_id: UUID, who: Principal) -> UploadSession | None:
        """The session, if it is the principal's."""
        return (await self.session.scalars(self.select().where(UploadSession.id == session_id, _of(who)))).one_or_none()

    async def set_upload_id(self, session_id: UUID, upload_id: str) -> None:
        """What the store calls the session's multipart upload."""
        await self._update(UploadSession.id == session_id, UploadSession.upload_id.is_(None), upload_id=upload_id)

    # -- completion --------------------------------------------------------------------------------------------

    async def claim(self, session_id: UUID, lease: float) -> UploadSession | None:
        """Takes the completion for `lease` seconds; None when it is final, expired, or another one runs."""
        query = (
            update(UploadSession)
            .where(UploadSession.id == session_id, _OPEN, UploadSession.expires_at > func.now(), _idle(lease))
            .values(
                epoch=UploadSession.epoch + 1,
                busy_until=func.now() + timedelta(seconds=lease),
                arrived_at=func.coalesce(UploadSession.arrived_at, func.now()),
            )
            .returning(UploadSession)
        )
        return (await self.session.scalars(query, execution_options={"populate_existing": True})).one_or_none()

    async def renew(self, session_id: UUID, epoch: int, lease: float) -> None:
        """Holds the completion for `lease` seconds more, if it is still this one."""
        until = func.now() + timedelta(seconds=lease)
        await self._update(UploadSession.id == session_id, _OPEN, UploadSession.epoch == epoch, busy_until=until)

    async def release(self, session_id: UUID, epoch: int) -> None:
        """Gives the completion back."""
        await self._update(UploadSession.id == session_id, UploadSession.epoch == epoch, busy_until=None)

    async def lock(self, session_id: UUID) -> UploadSession | None:
        """The session, its row locked until the transaction's end: before the request's row, as a lease is."""
        query = self.select().where(UploadSession.id == session_id).with_for_update()
        return (await self.session.scalars(query.execution_options(populate_existing=True))).one_or_none()

    async def end(self, session_id: UUID, state: SessionState, error: Json | None = None) -> bool:
        """Ends an open session; whether it was this call that did."""
        values: dict[str, Any] = {"state": state.value, "ended_at": func.now(), "busy_until": None}
        if error is not None:  # None would be JSON's null
            values["error"] = error
        return bool(await self._update(UploadSession.id == session_id, _OPEN, **values))

    async def abort(self, session_id: UUID, who: Principal, lease: float) -> bool:
        """Ends an open session of the principal that nobody completes; whether it was this call that did."""
        values = {"state": SessionState.ABORTED.value, "ended_at": func.now()}
        return bool(await self._update(UploadSession.id == session_id, _of(who), _OPEN, _idle(lease), **values))

    # -- sweeping ----------------------------------------------------------------------------------------------

    async def expire(self, lease: float, limit: int) -> int:
        """Ends sessions whose time is over and that nobody completes; how many."""
        due = (
            select(UploadSession.id)
            .where(_OPEN, UploadSession.expires_at <= func.now(), _idle(lease))
            .order_by(UploadSession.expires_at, UploadSession.id).limit(limit).with_for_update(skip_locked=True)
        )  # fmt: skip
        values = {"state": SessionState.EXPIRED.value, "ended_at": func.now(), "busy_until": None}
        return len(await self._update(UploadSession.id.in_(due), _OPEN, **values))

    async def uncleared(self, limit: int) -> list[UploadSession]:
        """Ended sessions whose staging object was not removed yet."""
        query = (
            self.select().where(UploadSession.state != SessionState.OPEN.value, UploadSession.cleared_at.is_(None))
            .order_by(UploadSession.ended_at, UploadSession.id).limit(limit)
        )  # fmt: skip
        return list((await self.session.scalars(query)).all())

    async def set_cleared(self, session_ids: Sequence[UUID]) -> None:
        """Nothing of these is in the staging area any more."""
        await self._update(
            UploadSession.id.in_(session_ids), UploadSession.state != SessionState.OPEN.value, cleared_at=func.now()
        )

    async def states(self, session_ids: Sequence[UUID]) -> dict[UUID, SessionState]:
        """The states of those that there are."""
        query = select(UploadSession.id, UploadSession.state).where(UploadSession.id.in_(session_ids))
        return {row.id: SessionState(row.state) for row in (await self.session.execute(query)).all()}

    async def purge(self, older_than: timedelta, limit: int) -> int:
        """Forgets cleared sessions that ended longer ago; how many."""
        old = (
            select(UploadSession.id)
            .where(and_(UploadSession.cleared_at.is_not(None), UploadSession.ended_at < func.now() - older_than))
            .order_by(UploadSession.ended_at, UploadSession.id).limit(limit)
        )  # fmt: skip
        gone = await self.session.scalars(
            delete(UploadSession).where(UploadSession.id.in_(old)).returning(UploadSession.id),
            execution_options={"synchronize_session": False},
        )
        return len(gone.all())

    async def _update(self, *where: ColumnElement[bool], **values: Any) -> list[UUID]:
        found = await self.session.scalars(
            update(UploadSession).where(*where).values(**values).returning(UploadSession.id),
            execution_options={"synchronize_session": False},
        )
        return list(found.all())
