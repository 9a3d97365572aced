"""Requests and their ledger.

Two kinds of write (docs/rules.md, rule 1). Evidence, a stored frame or a dropped slot, is accepted from any epoch and
changes only that slot's accounting: `record`, one call of the SQL function `record_slots`. State (status, grid,
gaps, errors) needs the newest epoch and a request that is not final: the methods that take a `Claim`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Table, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningInsert

from models.entities import CaptureGap, CaptureLease, IngestionRequest
from models.values import (
    FINAL_STATUSES,
    CaptureError,
    CaptureMode,
    Claim,
    DropReason,
    FrameRecord,
    IngestionStatus,
    RequestFilter,
    SourceInfo,
)
from repositories.base import Key, Repository
from repositories.capture_events import CaptureEventRepository
from repositories.leases import LeaseRepository
from repositories.sql import sql
from utils.exceptions import KeysCondemned, LeaseLost
from utils.ids import new_id

_FINAL = [status.value for status in FINAL_STATUSES]
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


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of one frame given to `record`: stored, exists (the slot has a frame), surplus, late, condemned."""

    sequence: int
    outcome: str
    storage_path: str | None


@dataclass(frozen=True, slots=True)
class EventsAtEnd:
    """What the owner of an event_driven capture knows when it ends it.

    The triggers taken in: all of before `since`, and the `known` ones. The slots that an event has come to want
    (`opened`) and those that belong to none (`idle`), as far as the row does not know of them.
    """

    since: datetime
    known: frozenset[UUID]
    opened: frozenset[int]
    idle: Sequence[int]


def multirange(slots: Iterable[int]) -> str:
    """Slot numbers as a PostgreSQL int4multirange literal."""
    parts: list[str] = []
    start = previous = None
    for slot in sorted(set(slots)):
        if start is None or previous is None:
            start = previous = slot
        elif slot == previous + 1:
            previous = slot
        else:
            parts.append(f"[{start},{previous + 1})")
            start = previous = slot
    if start is not None and previous is not None:
        parts.append(f"[{start},{previous + 1})")
    return "{" + ",".join(parts) + "}"


def _frame_json(frame: FrameRecord) -> dict[str, Any]:
    return {
        "id": str(frame.frame_id), "camera_id": frame.camera_id, "source_type": frame.source_type.value,
        "sequence": frame.sequence, "storage_path": frame.storage_path, "filename": frame.filename,
        "capture_timestamp": frame.timestamp.isoformat(), "timestamp_source": frame.timestamp_source.value,
        "timestamp_uncertainty_ms": frame.timestamp_uncertainty_ms,
        "camera_timestamp": frame.camera_timestamp.isoformat() if frame.camera_timestamp else None,
        "width": frame.width, "height": frame.height,
        "size_bytes": frame.size_bytes, "format": frame.format, "content_type": frame.content_type,
        "sha256": frame.sha256, "exif": frame.exif, "meta": frame.meta,
    }  # fmt: skip


def _refuse_condemned(frames: Sequence[FrameRecord], recorded: Sequence[Recorded]) -> None:
    """Raises KeysCondemned: a request that is final as soon as it is there cannot wait for a frame's second PUT."""
    condemned = {item.sequence for item in recorded if item.outcome == "condemned"}
    if condemned:
        raise KeysCondemned(frozenset(frame.storage_path for frame in frames if frame.sequence in condemned))


class IngestionRequestRepository(Repository[IngestionRequest]):
    entity = IngestionRequest

    # -- admission ---------------------------------------------------------------------------------------------

    async def add_capture(self, row: IngestionRequest) -> IngestionRequest:
        """A pending capture and its claimable lease, as stored; running it twice changes nothing (docs/rules.md, rule 4)."""
        values = {
            name: getattr(row, name)
            for name in ("id", "camera_id", "source_type", "capture_mode", "status", "rtsp_url", "params", "meta")
        }
        if await self._insert(values, _INSERT):  # else it may be running, or final: a lease is not for it any more
            await self.session.execute(
                insert(CaptureLease).values(request_id=row.id, camera_id=row.camera_id).on_conflict_do_nothing()
            )
        return (await self.session.scalars(self.select().where(IngestionRequest.id == row.id))).one()

    async def add_group(self, rows: Sequence[IngestionRequest], owner: str, ttl: float) -> set[UUID]:
        """Captures that `owner` runs from the start, and their leases; idempotent (docs/rules.md, rule 4).

        Returns those whose first epoch is `owner`'s: none of a group that another process inserted before.
        """
        names = (
            "id", "camera_id", "source_type", "capture_mode", "status", "rtsp_url", "params", "meta", "group_id"
        )  # fmt: skip
        values = [{name: getattr(row, name) for name in names} for row in rows]
        statement = insert(IngestionRequest).values(values).on_conflict_do_nothing().returning(IngestionRequest.id)
        new = set((await self.session.scalars(statement)).all())
        leases = LeaseRepository(self.session)
        await leases.add_held(owner, ttl, {row.id: row.camera_id for row in rows if row.id in new})
        return await leases.held(owner, [row.id for row in rows])

    async def add_upload(
        self, row: IngestionRequest, frames: Sequence[FrameRecord], rejected: Sequence[int]
    ) -> list[Recorded]:
        """A finished upload with its frames, whole or not at all; nothing when there is one with its id.

        Raises KeysCondemned.
        """
        values = {name: getattr(row, name) for name in ("id", "camera_id", "source_type", "meta", "rejected")}
        if not await self._insert(values, _INSERT_STARTED):
            return []
        drops = {DropReason.REJECTED: rejected} if rejected else {}
        recorded = await self.record(row.id, frames, drops, expected=len(frames) + len(rejected))
        _refuse_condemned(frames, recorded)
        await self.session.execute(_COMPLETE, {"request_id": row.id})
        return recorded

    async def add_snapshot(self, row: IngestionRequest, frame: FrameRecord) -> bool:
        """A finished capture of one frame, whole or not at all; False when there is a request with its id.

        Raises KeysCondemned.
        """
        names = ("id", "camera_id", "source_type", "capture_mode", "rtsp_url", "params", "meta", "source", "grid_start")
        values = {name: getattr(row, name) for name in names}
        if not await self._insert(values, _INSERT_STARTED):
            return False
        _refuse_condemned([frame], await self.record(row.id, [frame], {}, expected=1))
        await self.session.execute(_COMPLETE, {"request_id": row.id})
        return True

    async def _insert(self, values: Mapping[str, Any], statement: ReturningInsert[Any]) -> bool:
        """Whether the request was inserted; False when there is one with its id, by this call or by another one."""
        return await self.session.scalar(statement, values) is not None

    async def count_pending(self, at_most: int) -> int:
        """How many captures wait, counted no further than `at_most`."""
        waiting = select(IngestionRequest.id).where(IngestionRequest.status == IngestionStatus.PENDING.value).limit(at_most)
        return int(await self.session.scalar(select(func.count()).select_from(waiting.subquery())) or 0)

    # -- evidence ----------------------------------------------------------------------------------------------

    async def record(
        self,
        request_id: UUID,
        frames: Sequence[FrameRecord],
        drops: Mapping[DropReason, Iterable[int]],
        expected: int,
        idle: Iterable[int] = (),
    ) -> list[Recorded]:
        """Stored frames, dropped slots and slots come due, in one round trip; counters follow from rows inserted.

        `idle`: slots that belong to no event (event_driven). Idempotent: a frame that its slot has already is `exists`,
        a slot booked before stays where it is.
        """
        booked = {reason.value: multirange(slots) for reason, slots in drops.items()}
        if (unwanted := multirange(idle)) != "{}":
            booked["idle"] = unwanted
        rows = await self.session.execute(
            sql(
                "SELECT sequence, outcome, storage_path FROM record_slots("
                "CAST(:id AS uuid), CAST(:frames AS jsonb), CAST(:drops AS jsonb), CAST(:expected AS int))"
            ),
            {
                "id": request_id,
                "frames": json.dumps([_frame_json(frame) for frame in frames]),
                "drops": json.dumps(booked),
                "expected": expected,
            },
        )
        return [Recorded(row.sequence, row.outcome, row.storage_path) for row in rows]

    async def open_slots(self, request_id: UUID, slots: Iterable[int]) -> None:
        """Slots that were idle belong to an event after all: they are due."""
        await self.session.execute(
            sql("SELECT open_slots(CAST(:id AS uuid), CAST(CAST(:slots AS text) AS int4multirange))"),
            {"id": request_id, "slots": multirange(slots)},
        )

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

    async def abandon(self, request_id: UUID, slots: Iterable[int]) -> None:
        """Slots whose frames the spool gave up: spool_full, where they are `spooled` or not accounted for yet."""
        await self.session.execute(
            sql("SELECT abandon_slots(CAST(:id AS uuid), CAST(CAST(:slots AS text) AS int4multirange))"),
            {"id": request_id, "slots": multirange(slots)},
        )

    # -- state, fenced by the claim's epoch --------------------------------------------------------------------

    async def start(self, claim: Claim) -> IngestionRequest:
        """Marks a claimed capture as running and reads it whole. Raises LeaseLost."""
        await self._fenced(
            claim,
            status=IngestionStatus.IN_PROGRESS.value,
            started_at=func.coalesce(IngestionRequest.started_at, func.now()),
        )
        row = await self.session.get(IngestionRequest, claim.request_id, populate_existing=True)
        if row is None:
            raise LeaseLost
        return row

    async def set_grid_start(self, claim: Claim, grid_start: datetime, source: SourceInfo | None) -> datetime:
        """Sets the grid's origin once; returns the one that holds (compare and set)."""
        values: dict[str, Any] = {"grid_start": func.coalesce(IngestionRequest.grid_start, grid_start)}
        if source is not None:
            values["source"] = source.to_json()
        await self._fenced(claim, **values)
        held = await self.session.scalar(select(IngestionRequest.grid_start).where(IngestionRequest.id == claim.request_id))
        if held is None:
            raise LeaseLost
        return held

    async def set_source(self, claim: Claim, source: SourceInfo) -> None:
        await self._fenced(claim, source=source.to_json())

    async def set_error(self, claim: Claim, error: CaptureError) -> None:
        """The latest failure, while the capture goes on."""
        await self._fenced(claim, error=error.to_json())

    async def set_reconnects(self, claim: Claim, count: int) -> None:
        await self._fenced(claim, reconnects=count)

    async def open_gap(self, claim: Claim, since: datetime, reason: str) -> None:
        """Begins a gap, unless one is open; not before the end of the one before: gaps do not overlap."""
        await self._fenced(claim)
        await self._open_gap(claim.request_id, since, reason)

    async def close_gap(self, claim: Claim, until: datetime) -> None:
        """Ends the open gap, if there is one."""
        await self._fenced(claim)
        await self._close_gap(claim.request_id, until)

    async def finish(
        self,
        claim: Claim,
        status: IngestionStatus,
        *,
        expected: int,
        rest: DropReason,
        error: CaptureError | None,
        gap_end: datetime,
        events: EventsAtEnd | None = None,
        drops: Mapping[DropReason, Iterable[int]] | None = None,
    ) -> IngestionStatus:
        """Ends a capture: `drops` are booked, what else is neither stored nor dropped nor idle under `rest`, the lease goes.

        A cancel that was committed before wins; `completed` needs a stored frame (event_driven: a picture), else it is
        `failed`. Returns the status that holds: in_progress when there is a trigger that `events` does not know.
        Raises LeaseLost.
        """
        fenced = await LeaseRepository(self.session).fence(claim)
        row = await self._locked(claim.request_id)
        if row is not None and row.status in FINAL_STATUSES:
            return IngestionStatus(row.status)  # this very call, whose COMMIT was not known to have succeeded
        if not fenced or row is None:
            raise LeaseLost
        if events is not None:
            rows = CaptureEventRepository(self.session)
            if await rows.unseen(claim.request_id, events.since, events.known):
                return IngestionStatus.IN_PROGRESS
            await rows.close_open(claim.request_id)
            await self.open_slots(claim.request_id, events.opened)
            await self.record(claim.request_id, [], {}, expected, events.idle)
        if row.cancel_requested_at is not None:
            status = IngestionStatus.CANCELLED
        if drops:
            await self.record(claim.request_id, [], drops, expected)
        await self._settle(claim.request_id, rest, expected)
        stored = int(
            await self.session.scalar(select(IngestionRequest.stored).where(IngestionRequest.id == claim.request_id)) or 0
        )
        seen = row.capture_mode == CaptureMode.EVENT_DRIVEN.value and row.grid_start is not None
        if status is IngestionStatus.COMPLETED and stored == 0 and not seen:
            status = IngestionStatus.FAILED
        await self._end(claim.request_id, status, error if status is IngestionStatus.FAILED else None, gap_end)
        return status

    async def request_cancel(self, request_id: UUID) -> IngestionStatus | None:
        """Asks for the end: a pending request ends here and now. Returns the status before, None for no request."""
        # The lease before the row, as every state write does: the other way round the two would deadlock.
        lease = sql("SELECT 1 FROM capture_leases WHERE request_id = :id FOR UPDATE")
        await self.session.execute(lease, {"id": request_id})
        row = await self._locked(request_id)
        if row is None or row.status in FINAL_STATUSES:
            return IngestionStatus(row.status) if row is not None else None
        before = IngestionStatus(row.status)
        await self.session.execute(
            update(IngestionRequest)
            .where(IngestionRequest.id == request_id)
            .values(
                cancel_requested_at=func.coalesce(IngestionRequest.cancel_requested_at, func.now()), updated_at=func.now()
            )
        )
        if before is IngestionStatus.PENDING:
            if row.capture_mode == CaptureMode.SINGLE_FRAME.value:
                await self._settle(request_id, DropReason.CANCELLED, 1)
            await self._end(request_id, IngestionStatus.CANCELLED, None, None)
        return before

    # -- reads -------------------------------------------------------------------------------------------------

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

    async def find(self, wanted: RequestFilter, *, after: Key | None, limit: int) -> list[IngestionRequest]:
        """Requests, newest first."""
        query = self.select()
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
        if wanted.created_from is not None:
            query = query.where(IngestionRequest.created_at >= wanted.created_from)
        if wanted.created_to is not None:
            query = query.where(IngestionRequest.created_at < wanted.created_to)
        by = (IngestionRequest.created_at, IngestionRequest.id)
        return await self.page(query, by, after=after, limit=limit, descending=True)

    async def of_group(self, group_id: UUID) -> list[IngestionRequest]:
        """The requests of a burst."""
        query = self.select().where(IngestionRequest.group_id == group_id).order_by(IngestionRequest.id)
        return list((await self.session.scalars(query)).all())

    async def is_final(self, request_id: UUID) -> bool:
        status = await self.session.scalar(select(IngestionRequest.status).where(IngestionRequest.id == request_id))
        return status is None or status in _FINAL

    # -- helpers -----------------------------------------------------------------------------------------------

    async def _fenced(self, claim: Claim, **values: Any) -> None:
        if not await LeaseRepository(self.session).fence(claim):
            raise LeaseLost
        done = await self.session.scalar(
            update(IngestionRequest)
            .where(IngestionRequest.id == claim.request_id, IngestionRequest.status.not_in(_FINAL))
            .values(updated_at=func.now(), **values)
            .returning(IngestionRequest.id)
        )
        if done is None:
            raise LeaseLost

    async def lock(self, request_id: UUID) -> IngestionRequest | None:
        """The request, its row locked until the transaction's end."""
        return await self._locked(request_id)

    async def _locked(self, request_id: UUID) -> IngestionRequest | None:
        query = self.select().where(IngestionRequest.id == request_id).with_for_update(key_share=True)
        return (await self.session.scalars(query.execution_options(populate_existing=True))).one_or_none()

    async def _settle(self, request_id: UUID, rest: DropReason, expected: int) -> None:
        await self.session.execute(
            sql("SELECT settle_slots(CAST(:id AS uuid), CAST(:rest AS text), CAST(:expected AS int))"),
            {"id": request_id, "rest": rest.value, "expected": expected},
        )

    async def take_over(self, claim: Claim, expected: int, since: datetime, wanted: Iterable[int] | None = None) -> None:
        """What a former owner left: every slot below `expected` without frame or reason is lease_lost; the gap is open.

        `since`: its last frame's time. `wanted` (event_driven): the slots of events as far as slots that came due since
        the last booking can be in one; the others of those are idle.
        """
        await self._fenced(claim)
        if wanted is not None:
            await CaptureEventRepository(self.session).close_open(claim.request_id)
            row = await self._locked(claim.request_id)
            assert row is not None
            slots = {slot for slot in wanted if slot < expected}
            await self.open_slots(claim.request_id, slots)
            idle = (slot for slot in range(row.expected, expected) if slot not in slots)
            await self.record(claim.request_id, [], {}, expected, idle)
        await self._settle(claim.request_id, DropReason.LEASE_LOST, expected)
        await self._open_gap(claim.request_id, since, DropReason.LEASE_LOST.value)

    async def _open_gap(self, request_id: UUID, since: datetime, reason: str) -> None:
        ended = select(func.max(CaptureGap.to_at)).where(CaptureGap.request_id == request_id).scalar_subquery()
        await self.session.execute(
            insert(CaptureGap)
            .values(id=new_id(), request_id=request_id, from_at=func.greatest(since, ended), reason=reason)
            .on_conflict_do_nothing(index_elements=["request_id"], index_where=sql("to_at IS NULL"))
        )

    async def _close_gap(self, request_id: UUID, until: datetime | None) -> None:
        await self.session.execute(
            update(CaptureGap)
            .where(CaptureGap.request_id == request_id, CaptureGap.to_at.is_(None))
            .values(to_at=func.greatest(CaptureGap.from_at, until if until is not None else func.now()))
        )

    async def _end(
        self, request_id: UUID, status: IngestionStatus, error: CaptureError | None, gap_end: datetime | None
    ) -> None:
        await self._close_gap(request_id, gap_end)
        await self.session.execute(
            update(IngestionRequest)
            .where(IngestionRequest.id == request_id)
            .values(
                status=status.value, error=error.to_json() if error else None, completed_at=func.now(), updated_at=func.now()
            )
        )
        await self.session.execute(sql("DELETE FROM capture_leases WHERE request_id = :id"), {"id": request_id})
