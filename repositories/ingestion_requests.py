"""Requests: their admission, the grid of late frames, and reads of requests and their gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Table, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningInsert

from models.access import CameraGrant
from models.entities import CaptureGap, CaptureLease, IngestionRequest
from models.values import FINAL_STATUSES, FrameRecord, IngestionStatus, NewCapture, RequestFilter
from repositories.base import Key, Repository
from repositories.grants import granted
from repositories.ledger import Ledger, Recorded
from repositories.meta_filters import meta_condition, meta_filters
from repositories.sql import sql
from repositories.uploads import Upload, store_within
from utils.exceptions import KeysCondemned

# Made once: building a statement costs more than running it. What a caller gives are its parameters.
_REQUESTS = cast(Table, IngestionRequest.__table__)
_INSERT = insert(_REQUESTS).on_conflict_do_nothing().returning(_REQUESTS.c.id)
_INSERT_STARTED = (
    insert(_REQUESTS)
    .values(status=IngestionStatus.IN_PROGRESS.value, started_at=func.now())
    .on_conflict_do_nothing()
    .returning(_REQUESTS.c.id)
)
_COMPLETE = (
    update(_REQUESTS)
    .where(_REQUESTS.c.id == bindparam("request_id"), _REQUESTS.c.status == IngestionStatus.IN_PROGRESS.value)
    .values(status=IngestionStatus.COMPLETED.value, completed_at=func.now(), updated_at=func.now())
)


def _refuse_condemned(frames: Sequence[FrameRecord], recorded: Sequence[Recorded]) -> None:
    """Raises KeysCondemned: a request that is final as soon as it is there cannot wait for a frame's second PUT."""
    condemned = {item.sequence for item in recorded if item.outcome == "condemned"}
    if condemned:
        raise KeysCondemned(frozenset(frame.storage_path for frame in frames if frame.sequence in condemned))


class IngestionRequestRepository(Repository[IngestionRequest]):
    entity = IngestionRequest

    # -- admission ---------------------------------------------------------------------------------------------

    async def add_capture(self, row: IngestionRequest | NewCapture) -> IngestionRequest:
        """A pending capture and its claimable lease, as stored; running it twice changes nothing (docs/rules.md, rule 4)."""
        values = {
            name: getattr(row, name)
            for name in ("id", "camera_id", "source_type", "capture_mode", "status", "rtsp_url", "params", "meta", "owner")
        }
        if await self._insert(values, _INSERT):  # else it may be running, or final: a lease is not for it any more
            await self.session.execute(
                insert(CaptureLease)
                .values(request_id=row.id, camera_id=row.camera_id, principal=row.owner)
                .on_conflict_do_nothing()
            )
        return (await self.session.scalars(self.select().where(IngestionRequest.id == row.id))).one()

    async def add_group(
        self, rows: Sequence[IngestionRequest], owner: str, ttl: float, others: Mapping[str, str] | None = None
    ) -> set[UUID]:
        """Captures that `owner` runs from the start, and their leases; idempotent (docs/rules.md, rule 4).

        `others`: who runs them instead, by camera. Returns those whose first epoch is `owner`'s: none of a group that
        another process inserted before.
        """
        others = others or {}
        names = (
            "id", "camera_id", "source_type", "capture_mode", "status", "rtsp_url", "params", "meta", "group_id", "owner"
        )  # fmt: skip
        values = [{name: getattr(row, name) for name in names} for row in rows]
        statement = insert(IngestionRequest).values(values).on_conflict_do_nothing().returning(IngestionRequest.id)
        new = set((await self.session.scalars(statement)).all())
        held = sql("""
            INSERT INTO capture_leases (request_id, camera_id, principal, owner, epoch, expires_at, ttl)
            SELECT request_id, camera_id, principal, owner, 1, now() + make_interval(secs => :ttl), CAST(:ttl AS float8)
            FROM unnest(CAST(:ids AS uuid[]), CAST(:cameras AS text[]), CAST(:principals AS text[]),
                        CAST(:owners AS text[])) AS new(request_id, camera_id, principal, owner)
            ON CONFLICT DO NOTHING
        """)
        leased = [row for row in rows if row.id in new]
        await self.session.execute(
            held,
            {
                "owners": [others.get(row.camera_id, owner) for row in leased], "ttl": ttl,
                "ids": [row.id for row in leased],
                "cameras": [row.camera_id for row in leased], "principals": [row.owner for row in leased],
            },
        )  # fmt: skip
        ours = select(CaptureLease.request_id).where(
            CaptureLease.request_id.in_([row.id for row in rows]), CaptureLease.owner == owner, CaptureLease.epoch == 1
        )
        return set((await self.session.scalars(ours)).all())

    async def add_upload(self, upload: Upload) -> None:
        """A finished upload with its frames, whole or not at all; nothing when there is one with its id.

        Raises KeysCondemned.
        """
        await store_within(self.session, upload)

    async def add_snapshot(self, row: IngestionRequest, frame: FrameRecord) -> bool:
        """A finished capture of one frame, whole or not at all; False when there is a request with its id.

        Raises KeysCondemned.
        """
        names = ("id", "camera_id", "source_type", "capture_mode", "rtsp_url", "params", "meta", "source", "grid_start")
        values = {name: getattr(row, name) for name in names}
        if not await self._insert(values, _INSERT_STARTED):
            return False
        _refuse_condemned([frame], await Ledger(self.session).record(row.id, [frame], {}, expected=1))
        await self.session.execute(_COMPLETE, {"request_id": row.id})
        return True

    async def _insert(self, values: Mapping[str, Any], statement: ReturningInsert[Any]) -> bool:
        """Whether the request was inserted; False when there is one with its id, by this call or by another one."""
        return await self.session.scalar(statement, values) is not None

    async def adopt_grid(self, request_id: UUID, grid_start: datetime) -> datetime | None:
        """The grid's origin that holds: the row's, else `grid_start`, which is the row's from now on (compare and set).

        None when there is no such request. From any epoch: frames numbered on that grid are there (docs/rules.md, rule 3).
        """
        held: datetime | None = await self.session.scalar(
            update(IngestionRequest)
            .where(IngestionRequest.id == request_id)
            .values(grid_start=func.coalesce(IngestionRequest.grid_start, grid_start))
            .returning(IngestionRequest.grid_start)
        )
        return held

    # -- reads -------------------------------------------------------------------------------------------------

    async def visible(self, request_id: UUID, cameras: CameraGrant) -> IngestionRequest | None:
        """The request, if its camera is among `cameras`."""
        row = await self.get(request_id)
        return row if row is not None and cameras.covers(row.camera_id) else None

    async def find(
        self, wanted: RequestFilter, cameras: CameraGrant, *, after: Key | None, limit: int
    ) -> list[IngestionRequest]:
        """Requests of `cameras`, newest first."""
        query = self.select().where(granted(IngestionRequest.camera_id, cameras))
        if wanted.camera_id is not None:
            query = query.where(IngestionRequest.camera_id == wanted.camera_id)
        if wanted.status is not None:
            query = query.where(IngestionRequest.status == wanted.status.value)
        if wanted.source_type is not None:
            query = query.where(IngestionRequest.source_type == wanted.source_type.value)
        if wanted.capture_mode is not None:
            query = query.where(IngestionRequest.capture_mode == wanted.capture_mode.value)
        if wanted.group_id is not None:
            query = query.where(IngestionRequest.group_id == wanted.group_id)
        for key, head, value in meta_filters(wanted):
            names = {f"{key}_head": head, key: value}
            query = query.where(sql(meta_condition(key, *(f":{name}" for name in names))).bindparams(**names))
        if wanted.created_from is not None:
            query = query.where(IngestionRequest.created_at >= wanted.created_from)
        if wanted.created_to is not None:
            query = query.where(IngestionRequest.created_at < wanted.created_to)
        by = (IngestionRequest.created_at, IngestionRequest.id)
        return await self.page(query, by, after=after, limit=limit, descending=True)

    async def of_group(self, group_id: UUID, cameras: CameraGrant) -> list[IngestionRequest]:
        """The requests of a burst, those of `cameras`."""
        mine = granted(IngestionRequest.camera_id, cameras)
        query = self.select().where(IngestionRequest.group_id == group_id, mine).order_by(IngestionRequest.id)
        return list((await self.session.scalars(query)).all())

    async def is_final(self, request_id: UUID) -> bool:
        status = await self.session.scalar(select(IngestionRequest.status).where(IngestionRequest.id == request_id))
        return status is None or IngestionStatus(status) in FINAL_STATUSES

    async def gaps(self, request_id: UUID, limit: int = 100) -> list[CaptureGap]:
        """The newest gaps, oldest first."""
        query = (
            select(CaptureGap)
            .where(CaptureGap.request_id == request_id)
            .order_by(CaptureGap.from_at.desc(), CaptureGap.id.desc())
            .limit(limit)
        )
        return list(reversed((await self.session.scalars(query)).all()))

    async def gaps_of(self, request_ids: Sequence[UUID], limit: int = 100) -> dict[UUID, list[CaptureGap]]:
        """The newest gaps of several requests, oldest first, at most `limit` each."""
        rank = func.row_number().over(
            partition_by=CaptureGap.request_id, order_by=(CaptureGap.from_at.desc(), CaptureGap.id.desc())
        )
        ranked = select(CaptureGap.id, rank.label("n")).where(CaptureGap.request_id.in_(request_ids)).subquery()
        query = (
            select(CaptureGap).join(ranked, ranked.c.id == CaptureGap.id).where(ranked.c.n <= limit)
            .order_by(CaptureGap.from_at, CaptureGap.id)
        )  # fmt: skip
        found: dict[UUID, list[CaptureGap]] = {request_id: [] for request_id in request_ids}
        for gap in await self.session.scalars(query):
            found[gap.request_id].append(gap)
        return found
