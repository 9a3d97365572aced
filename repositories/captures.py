"""The state of a capture, written by its owner: status, grid, source, latest error, gaps, end.

Every write of an owner takes its `Claim`: the lease is locked first and must have the claim's epoch, and the request must
not be final, else LeaseLost. Locks are taken in one order: lease, request. Longer than 250 lines: all writes under a claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from models.access import ALL_CAMERAS, CameraGrant
from models.entities import CaptureEvent, CaptureGap, IngestionRequest
from models.values import (
    FINAL_STATUSES,
    CaptureError,
    CaptureMode,
    Claim,
    DropReason,
    EventKind,
    IngestionStatus,
    SourceInfo,
)
from repositories.base import Repository
from repositories.ledger import Ledger
from repositories.sql import sql
from utils.exceptions import LeaseLost
from utils.ids import new_id

_FINAL = [status.value for status in FINAL_STATUSES]


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


class CaptureRepository(Repository[IngestionRequest]):
    entity = IngestionRequest

    @cached_property
    def _ledger(self) -> Ledger:
        return Ledger(self.session)

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

    async def take_over(self, claim: Claim, expected: int, since: datetime, wanted: Iterable[int] | None = None) -> None:
        """Books what a former owner left: every slot below `expected` without frame or reason is lease_lost; a gap begins.

        `since`: its last frame's time. `wanted` (event_driven): the slots of events as far as slots that came due since
        the last booking can be in one; the others of those are idle.
        """
        await self._fenced(claim)
        if wanted is not None:
            await self._end_events(claim.request_id)
            row = await self.lock(claim.request_id, ALL_CAMERAS)
            assert row is not None
            slots = {slot for slot in wanted if slot < expected}
            await self._ledger.open_slots(claim.request_id, slots)
            idle = (slot for slot in range(row.expected, expected) if slot not in slots)
            await self._ledger.record(claim.request_id, [], {}, expected, idle)
        await self._ledger.settle(claim.request_id, DropReason.LEASE_LOST, expected)
        await self._open_gap(claim.request_id, since, DropReason.LEASE_LOST.value)
        # What was booked here is no progress of the new owner's.
        mark = sql("UPDATE capture_leases SET mark = lease_mark(request_id) WHERE request_id = :id")
        await self.session.execute(mark, {"id": claim.request_id})

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
        """Ends a capture: books `drops`, every other slot that is open as `rest`, and deletes the lease.

        A cancel that was committed before wins; `completed` needs a stored frame (event_driven: a picture), else it is
        `failed`. Returns the status that holds: in_progress when there is a trigger that `events` does not know.
        Raises LeaseLost.
        """
        fenced = await self.fence(claim)
        row = await self.lock(claim.request_id, ALL_CAMERAS)
        if row is not None and row.status in FINAL_STATUSES:
            return IngestionStatus(row.status)  # this very call, whose COMMIT was not known to have succeeded
        if not fenced or row is None:
            raise LeaseLost
        if events is not None:
            if await self._unknown_trigger(claim.request_id, events):
                return IngestionStatus.IN_PROGRESS
            await self._end_events(claim.request_id)
            await self._ledger.open_slots(claim.request_id, events.opened)
            await self._ledger.record(claim.request_id, [], {}, expected, events.idle)
        if row.cancel_requested_at is not None:
            status = IngestionStatus.CANCELLED
        if drops:
            await self._ledger.record(claim.request_id, [], drops, expected)
        await self._ledger.settle(claim.request_id, rest, expected)
        stored = await self.session.scalar(select(IngestionRequest.stored).where(IngestionRequest.id == claim.request_id))
        watched = row.capture_mode == CaptureMode.EVENT_DRIVEN.value and row.grid_start is not None
        if status is IngestionStatus.COMPLETED and not stored and not watched:
            status = IngestionStatus.FAILED
        await self._end(claim.request_id, status, error if status is IngestionStatus.FAILED else None, gap_end)
        return status

    async def request_cancel(self, request_id: UUID, cameras: CameraGrant) -> IngestionStatus | None:
        """Asks for the end: a pending request ends here and now. Returns the status before, None for no request."""
        # The lease before the row, as every state write does: the other way round the two would deadlock.
        lease = sql("SELECT 1 FROM capture_leases WHERE request_id = :id FOR UPDATE")
        await self.session.execute(lease, {"id": request_id})
        row = await self.lock(request_id, cameras)
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
                await self._ledger.settle(request_id, DropReason.CANCELLED, 1)
            await self._end(request_id, IngestionStatus.CANCELLED, None, None)
        return before

    async def lock(self, request_id: UUID, cameras: CameraGrant) -> IngestionRequest | None:
        """The request as it is now, its row locked until the transaction's end; None if its camera is not of `cameras`."""
        query = self.select().where(IngestionRequest.id == request_id).with_for_update(key_share=True)
        row = (await self.session.scalars(query.execution_options(populate_existing=True))).one_or_none()
        return row if row is not None and cameras.covers(row.camera_id) else None

    # -- helpers -----------------------------------------------------------------------------------------------

    async def _fenced(self, claim: Claim, **values: Any) -> None:
        if not await self.fence(claim):
            raise LeaseLost
        done = await self.session.scalar(
            update(IngestionRequest)
            .where(IngestionRequest.id == claim.request_id, IngestionRequest.status.not_in(_FINAL))
            .values(updated_at=func.now(), **values)
            .returning(IngestionRequest.id)
        )
        if done is None:
            raise LeaseLost

    async def _unknown_trigger(self, request_id: UUID, events: EventsAtEnd) -> bool:
        """Whether there is a trigger that the capture's owner does not know."""
        query = (
            select(CaptureEvent.id)
            .where(
                CaptureEvent.request_id == request_id, CaptureEvent.created_at >= events.since,
                CaptureEvent.kind == EventKind.TRIGGER.value, CaptureEvent.id.not_in(list(events.known)),
            )
            .limit(1)
        )  # fmt: skip
        return await self.session.scalar(query) is not None

    async def _end_events(self, request_id: UUID) -> None:
        """Ends the events that still last when they were last seen: their owner is gone, or the capture ends."""
        await self.session.execute(
            update(CaptureEvent)
            .where(CaptureEvent.request_id == request_id, CaptureEvent.to_at.is_(None))
            .values(to_at=CaptureEvent.seen_at)
        )

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
