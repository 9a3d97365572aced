"""Events of event_driven captures as the wire shows them."""

from __future__ import annotations

from models.entities import CaptureEvent, IngestionRequest
from models.schemas import CaptureEventInfo
from models.values import CaptureParams, EventKind
from services.rtsp_capture.grid.event_slots import event_slots


def window_of(row: CaptureEvent, request: IngestionRequest) -> range:
    """The slots of an event; of a capture that has ended, those that came due."""
    if request.grid_start is None or request.params is None:
        return range(0)
    params = CaptureParams.from_json(request.params)
    window = event_slots(
        row.from_at.timestamp() - params.pre_roll, row.seen_at.timestamp() + params.post_roll,
        grid_start=request.grid_start.timestamp(), fps=params.fps, slots=params.slots, at_least_one=row.to_at is not None,
    )  # fmt: skip
    return range(min(window.start, request.expected), min(window.stop, request.expected)) if request.completed_at else window


def to_event(row: CaptureEvent, window: range, frames: int) -> CaptureEventInfo:
    """The event as the wire shows it."""
    return CaptureEventInfo(
        event_id=row.id, request_id=row.request_id, kind=EventKind(row.kind), label=row.label, score=row.score,
        from_=row.from_at, to=row.to_at, frames=frames, first_sequence=window.start if window else None,
        last_sequence=window.stop - 1 if window else None, created_at=row.created_at,
    )  # fmt: skip
