"""Requests as the wire shows them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from models.entities import CaptureGap, IngestionRequest
from models.schemas import (
    FrameInfo,
    Gap,
    IngestionResponse,
    Progress,
    RejectedFile,
    RequestError,
    RequestSummary,
    StreamSource,
)
from models.values import IngestionStatus, SourceType
from utils.secret_box import SecretBox


def message_of(row: IngestionRequest) -> str:
    """One sentence on the status of a request."""
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
        source_type=SourceType(row.source_type), capture_mode=row.capture_mode, message=message_of(row),
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
