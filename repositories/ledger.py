"""The ledger: which of a request's slots are stored, dropped or idle. One method for each SQL function of functions/.

This is evidence: it is accepted from any epoch, and changes only the accounting of the slots it names. All methods are
idempotent, and lock the request's row. State (status, grid, gaps, errors) needs the newest epoch: `captures`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from models.values import DropReason, FrameRecord
from repositories.sql import sql
from utils.metrics import FRAMES, FRAMES_DROPPED


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of one frame given to `record`: stored, exists (the slot has a frame), surplus, late, condemned."""

    sequence: int
    outcome: str
    storage_path: str | None


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


def frame_json(frame: FrameRecord) -> dict[str, Any]:
    """The frame as the SQL functions take it."""
    return {
        "id": str(frame.frame_id), "camera_id": frame.camera_id, "source_type": frame.source_type.value,
        "sequence": frame.sequence, "storage_path": frame.storage_path, "filename": frame.filename,
        "capture_timestamp": frame.timestamp.isoformat(), "timestamp_source": frame.timestamp_source.value,
        "timestamp_uncertainty_ms": frame.timestamp_uncertainty_ms,
        "camera_timestamp": frame.camera_timestamp.isoformat() if frame.camera_timestamp else None,
        "width": frame.width, "height": frame.height,
        "size_bytes": frame.size_bytes, "format": frame.format, "content_type": frame.content_type,
        "sha256": frame.sha256, "integrity": frame.integrity.value,
        "exif": frame.exif, "meta": frame.meta, "quality": frame.quality,
    }  # fmt: skip


RECORD = "SELECT sequence, outcome, storage_path FROM record_slots($1::uuid, $2::jsonb, $3::jsonb, $4::int)"


def record_arguments(
    request_id: UUID,
    frames: Sequence[FrameRecord],
    drops: Mapping[DropReason, Iterable[int]],
    expected: int,
    idle: Iterable[int] = (),
) -> tuple[UUID, str, str, int]:
    """What `record_slots` takes."""
    booked = {reason.value: multirange(slots) for reason, slots in drops.items()}
    if (unwanted := multirange(idle)) != "{}":
        booked["idle"] = unwanted
    return request_id, json.dumps([frame_json(frame) for frame in frames]), json.dumps(booked), expected


class Ledger:
    """The ledgers of requests, in the caller's transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

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
        given = record_arguments(request_id, frames, drops, expected, idle)
        rows = await self.session.execute(
            sql(
                "SELECT sequence, outcome, storage_path FROM record_slots("
                "CAST(:id AS uuid), CAST(:frames AS jsonb), CAST(:drops AS jsonb), CAST(:expected AS int))"
            ),
            dict(zip(("id", "frames", "drops", "expected"), given, strict=True)),
        )
        return [Recorded(row.sequence, row.outcome, row.storage_path) for row in rows]

    async def open_slots(self, request_id: UUID, slots: Iterable[int]) -> None:
        """Slots that were idle belong to an event after all: they are due."""
        await self.session.execute(
            sql("SELECT open_slots(CAST(:id AS uuid), CAST(CAST(:slots AS text) AS int4multirange))"),
            {"id": request_id, "slots": multirange(slots)},
        )

    async def abandon(self, request_id: UUID, slots: Iterable[int]) -> None:
        """Slots whose frames the spool gave up: spool_full, where they are `spooled` or not accounted for yet."""
        await self.session.execute(
            sql("SELECT abandon_slots(CAST(:id AS uuid), CAST(CAST(:slots AS text) AS int4multirange))"),
            {"id": request_id, "slots": multirange(slots)},
        )

    async def settle(self, request_id: UUID, reason: DropReason, expected: int) -> None:
        """Every slot below `expected` that is neither stored nor dropped nor idle is dropped for `reason`.

        The metric counts these slots once they are committed: only the database knows how many there are.
        """
        dropped = await self.session.scalar(
            sql("SELECT settle_slots(CAST(:id AS uuid), CAST(:reason AS text), CAST(:expected AS int))"),
            {"id": request_id, "reason": reason.value, "expected": expected},
        )
        if dropped:
            count = partial(_count_dropped, reason, dropped)
            event.listen(self.session.sync_session, "after_commit", count, once=True)


def _count_dropped(reason: DropReason, slots: int, _session: Session) -> None:
    FRAMES_DROPPED.labels(reason=reason.value).inc(slots)
    FRAMES.labels(source="rtsp", outcome="dropped").inc(slots)
