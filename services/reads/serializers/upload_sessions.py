"""Upload sessions as the wire shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from models.entities import UploadSession
from models.schemas import UploadError, UploadPart, UploadSessionResponse
from models.values import SessionState, StagedPart
from services.storage_service.presign import Presigned


@dataclass(frozen=True, slots=True)
class Arrived:
    """What of a file is in the staging area."""

    whole: bool
    parts: Mapping[int, StagedPart]

    @classmethod
    def nothing(cls) -> Arrived:
        return cls(whole=False, parts={})


def _status(row: UploadSession, now: datetime) -> str:
    if row.state != SessionState.OPEN.value:
        return row.state
    if row.busy_until is not None and row.busy_until > now:
        return "completing"
    return SessionState.OPEN.value if row.expires_at > now else SessionState.EXPIRED.value


def to_session(
    row: UploadSession,
    now: datetime,
    sizes: Sequence[tuple[int, int]],
    arrived: Arrived,
    urls: Mapping[int, Presigned],
) -> UploadSessionResponse:
    """The session at the time `now`.

    `sizes`: (number, bytes) of each part; `urls`, by number: of the parts that are still to be sent.
    """
    single = row.part_size is None
    whole = arrived.whole or row.state == SessionState.COMPLETED.value
    parts = None
    if row.part_size is not None:
        parts = [
            UploadPart(
                number=number, offset=(number - 1) * row.part_size, size=size, arrived=whole or number in arrived.parts,
                etag=arrived.parts[number].etag if number in arrived.parts else None,
                url=urls[number].url if number in urls else None,
            )
            for number, size in sizes
        ]  # fmt: skip
    error = row.error
    return UploadSessionResponse(
        session_id=row.id, status=_status(row, now), camera_id=row.camera_id, filename=row.filename,
        content_type=row.content_type, size_bytes=row.size_bytes, sha256=row.sha256, meta=row.meta,
        method="single" if single else "multipart", upload_url=urls[1].url if single and 1 in urls else None,
        headers={"Content-Length": str(row.size_bytes)} if single else {},
        part_size=row.part_size, parts=parts,
        received_bytes=row.size_bytes if whole else sum(part.size for part in arrived.parts.values()),
        urls_expire_at=min((url.expires_at for url in urls.values()), default=None),
        request_id=row.request_id if row.state == SessionState.COMPLETED.value else None,
        error=UploadError(**{name: error[name] for name in ("code", "message", "retryable")}) if error else None,
        created_at=row.created_at, expires_at=row.expires_at,
    )  # fmt: skip
