"""Bursts as the wire shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from models.entities import Frame, IngestionRequest
from models.schemas import BurstError, BurstResponse, BurstResult
from models.values import CaptureParams, IngestionStatus
from services.reads.serializers.frames import to_frame_info
from services.storage_service.presign import Presigned


def to_burst(
    group_id: UUID, rows: Sequence[IngestionRequest], frames: Mapping[UUID, Frame], urls: Mapping[UUID, Presigned]
) -> BurstResponse:
    """The burst of these requests and their frames; `frames` and `urls` by request."""
    asked = {row.id: CaptureParams.from_json(row.params or {}) for row in rows}
    ordered = sorted(rows, key=lambda row: burst.index if (burst := asked[row.id].burst) is not None else 0)
    first = asked[ordered[0].id]
    at, tolerance = first.frame_timestamp, first.burst.tolerance_ms if first.burst is not None else 0.0
    assert at is not None
    results = []
    for row in ordered:
        frame, error = frames.get(row.id), row.error if row.status == IngestionStatus.FAILED.value else None
        offset = round((frame.capture_timestamp - at).total_seconds() * 1000, 3) if frame is not None else None
        results.append(
            BurstResult(
                camera_id=row.camera_id, request_id=row.id, status=IngestionStatus(row.status), offset_ms=offset,
                within_tolerance=offset is not None and abs(offset) <= tolerance,
                frame=to_frame_info(frame, urls[row.id]) if frame is not None else None,
                error=BurstError(**{name: error[name] for name in BurstError.model_fields}) if error else None,
            )
        )  # fmt: skip
    times = [frame.capture_timestamp for frame in frames.values()]
    return BurstResponse(
        group_id=group_id, at=at, tolerance_ms=tolerance,
        skew_ms=round((max(times) - min(times)).total_seconds() * 1000, 3) if len(times) > 1 else None,
        complete=all(result.within_tolerance for result in results), stored=len(times), results=results,
    )  # fmt: skip
