"""Uploads: the form, and direct uploads by session."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from models.schemas.base import CameraId, FrameMeta, Input, NullIsAbsent, Output, Timestamp

CONTENT_TYPE_PATTERN = r"^[ -~]{1,255}$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"
ETAG_PATTERN = r"^[!-~]{1,200}$"


class UploadIngestionRequest(Input):
    """The form fields of POST /api/v1/ingest/upload beside `files`."""

    source_type: Literal["upload"] = "upload"
    camera_id: CameraId
    meta: FrameMeta = Field(default_factory=lambda: FrameMeta())


class UploadSessionCreate(NullIsAbsent):
    """POST /api/v1/ingest/upload/sessions."""

    camera_id: CameraId
    filename: str = Field(
        min_length=1, max_length=1024, description="Shown with the frame; its extension names the format.",
        examples=["car-44.tif"],
    )  # fmt: skip
    size_bytes: int = Field(ge=1, description="Exactly; at most UPLOAD__DIRECT_MAX_FILE_SIZE.")
    content_type: str | None = Field(
        None, pattern=CONTENT_TYPE_PATTERN, examples=["image/tiff"],
        description="The picture's; checked against its bytes. Not to be sent with the PUT.",
    )  # fmt: skip
    sha256: str | None = Field(None, pattern=SHA256_PATTERN, description="Hex, lower case: what arrives must have it.")
    meta: FrameMeta = Field(default_factory=lambda: FrameMeta())


class CompletedPart(Input):
    number: int = Field(ge=1, le=10_000)
    etag: str = Field(pattern=ETAG_PATTERN, description="As the store answered it, with or without quotes.")


class UploadComplete(Input):
    """POST /api/v1/ingest/upload/sessions/{session_id}/complete."""

    parts: list[CompletedPart] | None = Field(
        None,
        max_length=1000,
        description="Optional; what the client has sent. A part that is not as given here is asked for again.",
    )


class UploadPart(Output):
    number: int
    offset: int = Field(description="Of its first byte in the file.")
    size: int = Field(description="Bytes to send: exactly so many.")
    arrived: bool
    etag: str | None = Field(description="As the store has it, once it has arrived.")
    url: str | None = Field(description="Where to PUT it, made for this answer; null when it has arrived.")


class UploadError(Output):
    code: str
    message: str
    retryable: bool


class UploadSessionResponse(Output):
    """A direct upload. Every answer has fresh URLs."""

    session_id: UUID
    status: Literal["open", "completing", "completed", "failed", "aborted", "expired"]
    camera_id: str
    filename: str
    content_type: str | None
    size_bytes: int
    sha256: str | None
    meta: dict[str, Any]
    method: Literal["single", "multipart"]
    upload_url: str | None = Field(description="single: where to PUT the file; null when it has arrived, or in the end.")
    headers: dict[str, str] = Field(description="To send with the PUT; HTTP clients set Content-Length by themselves.")
    part_size: int | None
    parts: list[UploadPart] | None = Field(description="multipart: each part, PUT by itself, in any order.")
    received_bytes: int = Field(description="In whole parts: a PUT that was cut off counts nothing.")
    urls_expire_at: Timestamp | None
    request_id: UUID | None = Field(description="Of a completed one: the request with the frame.")
    error: UploadError | None = Field(description="Of a failed one: why the file was refused.")
    created_at: Timestamp
    expires_at: Timestamp = Field(description="Then what has arrived is removed.")
