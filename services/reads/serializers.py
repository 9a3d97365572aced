"""Rows as the wire shows them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from models.entities import CaptureEvent, CaptureGap, Frame, IngestionRequest
from models.schemas import (
    CaptureEventInfo,
    FrameInfo,
    Gap,
    IngestionResponse,
    Progress,
    RejectedFile,
    RequestError,
    RequestSummary,
    StreamSource,
)
from models.values import CaptureParams, EventKind, IngestionStatus, SourceType
from services.rtsp_capture.grid.event_slots import event_slots
from services.storage_service.presign import Presigned
from utils.secret_box import SecretBox

NO_URL = Presigned("", datetime.fromtimestamp(0, UTC))  # of a frame shown where its URL is not kept


def describe(row: IngestionRequest) -> str:
    """One sentence on where a request stands."""
    status = IngestionStatus(row.status)
    dropped = sum(row.dropped().values())
    if row.source_type == SourceType.UPLOAD.value:
        return f"{row.stored} of {row.due} files stored." if status is IngestionStatus.COMPLETED else "Being stored."
    if status is IngestionStatus.PENDING:
        return "Waiting for its turn."
    if status is IngestionStatus.IN_PROGRESS:
        asked = "; ending on request" if row.cancel_requested_at else ""
        waiting = "" if row.grid_start else " Waiting for the camera's first picture."
        return f"Capturing: {row.stored} frames stored, {row.in_flight} on their way, {dropped} dropped{asked}.{waiting}"
    if status is IngestionStatus.FAILED and row.error:
        return f"Failed: {row.error['message']} {row.stored} frames stored."
    ended = {"completed": "Completed", "cancelled": "Cancelled", "failed": "Failed"}[status.value]
    return f"{ended}: {row.stored} of {row.due} frames stored, {dropped} dropped."


def to_summary(row: IngestionRequest, gaps: Sequence[CaptureGap], secrets: SecretBox) -> RequestSummary:
    """The request as the wire shows it, without its frames."""
    source = None
    if row.rtsp_url is not None:
        found = row.source or {}
        source = StreamSource(
            url=secrets.masked(row.rtsp_url), codec=found.get("codec"), width=found.get("width") or None,
            height=found.get("height") or None, fps=found.get("fps"),
        )  # fmt: skip
    error = row.error
    return RequestSummary(
        request_id=row.id, group_id=row.group_id, status=IngestionStatus(row.status), camera_id=row.camera_id,
        source_type=SourceType(row.source_type), capture_mode=row.capture_mode, message=describe(row),
        frames_total=row.stored - row.deleted,
        progress=Progress(
            expected=row.due, stored=row.stored, in_flight=row.in_flight, dropped=row.dropped(),
            duplicates=row.duplicates, gaps=[Gap(from_=gap.from_at, to=gap.to_at, reason=gap.reason) for gap in gaps],
            reconnects=row.reconnects, last_frame_at=row.last_frame_at,
        ),
        error=RequestError(**{**error, "at": datetime.fromisoformat(error["at"])}) if error else None,
        rejected=[RejectedFile(**item) for item in row.rejected], meta=row.meta, source=source, grid_start=row.grid_start,
        created_at=row.created_at, started_at=row.started_at, completed_at=row.completed_at, updated_at=row.updated_at,
    )  # fmt: skip


def to_response(
    row: IngestionRequest, gaps: Sequence[CaptureGap], frames: list[FrameInfo], secrets: SecretBox
) -> IngestionResponse:
    """The request with its frames."""
    return IngestionResponse(**dict(to_summary(row, gaps, secrets)), frames=frames)


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


def to_frame_info(row: Frame, url: Presigned) -> FrameInfo:
    """The frame as the wire shows it, with a URL of this moment."""
    return FrameInfo(
        frame_id=row.id, request_id=row.request_id, camera_id=row.camera_id, source_type=SourceType(row.source_type),
        sequence=row.sequence, filename=row.filename, storage_path=row.storage_path, storage_url=url.url,
        url_expires_at=url.expires_at, timestamp=row.capture_timestamp, timestamp_source=row.timestamp_source,
        timestamp_uncertainty_ms=row.timestamp_uncertainty_ms, camera_timestamp=row.camera_timestamp,
        width=row.width, height=row.height,
        size_bytes=row.size_bytes, format=row.format, content_type=row.content_type, sha256=row.sha256,
        duplicate_of=row.duplicate_of, exif=row.exif, meta=row.meta, stored_at=row.stored_at,
        held_at=row.held_at, hold_reason=row.hold_reason,
    )  # fmt: skip
