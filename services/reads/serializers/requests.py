"""Requests as the wire shows them.

`request_json` is the one form: hot reads are written from it as it is, and the models are made of it where the product
passes an answer on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from models.entities import CaptureGap, IngestionRequest
from models.schemas import FrameInfo, IngestionResponse, RequestSummary
from models.schemas.base import format_time
from models.values import IngestionStatus, SourceType
from repositories.hot_reads import RequestRow
from repositories.reader import Row
from repositories.uploads import StoredRequest
from utils.secret_box import SecretBox

AnyRequest = IngestionRequest | RequestRow | StoredRequest
_ENDED = {"completed": "Completed", "cancelled": "Cancelled", "failed": "Failed"}


def worker_of(owner: str | None) -> str | None:
    """The id of the process that owns a lease (services.execution.membership); None for nobody's."""
    return None if owner is None else owner.rpartition(":")[2]


def _time(value: datetime | None) -> str | None:
    return None if value is None else format_time(value)


def message_of(row: AnyRequest, due: int, dropped: Mapping[str, int]) -> str:
    """One sentence on the status of a request; `due` and `dropped` as the row counts them."""
    status, lost = row.status, sum(dropped.values())
    if row.source_type == SourceType.UPLOAD.value:
        return f"{row.stored} of {due} files stored." if status == IngestionStatus.COMPLETED.value else "Being stored."
    if status == IngestionStatus.PENDING.value:
        return "Waiting for its turn."
    if status == IngestionStatus.IN_PROGRESS.value:
        asked = "; ending on request" if row.cancel_requested_at else ""
        waiting = "" if row.grid_start else " Waiting for the camera's first picture."
        return f"Capturing: {row.stored} frames stored, {row.in_flight} on their way, {lost} dropped{asked}.{waiting}"
    if status == IngestionStatus.FAILED.value and row.error:
        return f"Failed: {row.error['message']} {row.stored} frames stored."
    return f"{_ENDED[status]}: {row.stored} of {due} frames stored, {lost} dropped."


def _source(row: AnyRequest, secrets: SecretBox) -> dict[str, Any] | None:
    if row.rtsp_url is None:
        return None
    found = row.source or {}
    return {
        "url": secrets.masked(row.rtsp_url), "codec": found.get("codec"), "width": found.get("width") or None,
        "height": found.get("height") or None, "fps": found.get("fps"),
    }  # fmt: skip


def progress_json(row: AnyRequest, gaps: Sequence[CaptureGap | Row]) -> dict[str, Any]:
    """The ledger of a request, its gaps and its newest frame's time."""
    return _progress(row, gaps, row.due, row.dropped())


def _progress(row: AnyRequest, gaps: Sequence[CaptureGap | Row], due: int, dropped: dict[str, int]) -> dict[str, Any]:
    return {
        "expected": due,
        "stored": row.stored,
        "in_flight": row.in_flight,
        "dropped": dropped,
        "duplicates": row.duplicates,
        "gaps": [{"from": format_time(gap.from_at), "to": _time(gap.to_at), "reason": gap.reason} for gap in gaps],
        "reconnects": row.reconnects,
        "last_frame_at": _time(row.last_frame_at),
    }


def request_json(
    row: AnyRequest, gaps: Sequence[CaptureGap | Row], secrets: SecretBox, owner: str | None = None
) -> dict[str, Any]:
    """The request as the wire shows it, without its frames: a RequestSummary. `owner`: of its lease, while it has one."""
    due, dropped, error = row.due, row.dropped(), row.error
    return {
        "request_id": str(row.id),
        "group_id": None if row.group_id is None else str(row.group_id),
        "status": row.status,
        "camera_id": row.camera_id,
        "source_type": row.source_type,
        "capture_mode": row.capture_mode,
        "message": message_of(row, due, dropped),
        "worker": worker_of(owner),
        "frames_total": row.stored - row.deleted,
        "progress": _progress(row, gaps, due, dropped),
        "error": {**error, "at": format_time(datetime.fromisoformat(error["at"]))} if error else None,
        "rejected": row.rejected,
        "meta": row.meta,
        "source": _source(row, secrets),
        "grid_start": _time(row.grid_start),
        "created_at": format_time(row.created_at),
        "started_at": _time(row.started_at),
        "completed_at": _time(row.completed_at),
        "updated_at": format_time(row.updated_at),
    }


def to_summary(
    row: AnyRequest, gaps: Sequence[CaptureGap | Row], secrets: SecretBox, owner: str | None = None
) -> RequestSummary:
    """The request without its frames."""
    return RequestSummary.model_validate(request_json(row, gaps, secrets, owner))


def to_response(
    row: AnyRequest, gaps: Sequence[CaptureGap | Row], frames: list[FrameInfo], secrets: SecretBox
) -> IngestionResponse:
    """The request with its frames."""
    return IngestionResponse.model_validate({**request_json(row, gaps, secrets), "frames": frames})
