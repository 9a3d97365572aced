"""Triggers of event_driven captures, whichever process runs them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from models.access import ALL_CAMERAS
from models.entities import CaptureEvent
from models.values import CaptureMode, CaptureParams, IngestionStatus
from repositories.database import UnitOfWork
from utils.exceptions import NotRunning, RequestNotFound, TimestampOutOfRange

AHEAD_LIMIT = timedelta(seconds=10)  # by which a trigger's `at` may be ahead: clients' clocks


async def add_trigger(
    uow: UnitOfWork, event_id: UUID, request_id: UUID, label: str | None, at: datetime, ring_seconds: float
) -> CaptureEvent:
    """A trigger of a running event_driven capture; running it twice changes nothing.

    Raises RequestNotFound, NotRunning, TimestampOutOfRange.
    """
    if (known := await uow.events.get(event_id)) is not None:
        return known  # this very call, or an earlier run of its key, whose COMMIT was not known to have succeeded
    row = await uow.captures.lock(request_id, ALL_CAMERAS)
    if row is None:
        raise RequestNotFound
    running = row.status == IngestionStatus.IN_PROGRESS.value and row.cancel_requested_at is None
    if not running or row.capture_mode != CaptureMode.EVENT_DRIVEN.value or row.params is None:
        raise NotRunning
    now, ring = datetime.now(UTC), timedelta(seconds=ring_seconds)
    post_roll = timedelta(seconds=CaptureParams.from_json(row.params).post_roll)
    oldest = max(now - ring, (row.grid_start or row.created_at) - post_roll)
    if not oldest <= at <= now + AHEAD_LIMIT:
        raise TimestampOutOfRange.of(
            "at",
            "lies more than RTSP__RING_SECONDS ago, before the capture's first picture, or more than 10 s ahead",
            code="timestamp_out_of_range",
        )
    return await uow.events.add_trigger(event_id, request_id, label, at)
