"""/api/v1/ingest/upload/sessions: direct uploads, for large files and bad links."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import Path
from starlette.requests import Request
from starlette.responses import Response

from api.endpoints.requests import status_location
from api.http import examples
from api.http.access.check import WhoDep, allow_camera, count_bytes, share
from api.http.access.rules import needs
from api.http.dependencies import ServicesDep, StateDep
from api.http.idempotency import OperationDep
from api.http.multipart import clean_filename
from api.http.openapi import IDEMPOTENCY, KEYED, answer, problems
from api.http.params import StrictUuid
from api.http.receive import local_file
from api.http.routing import make_router
from models.access import Scope
from models.schemas import IngestionResponse, UploadComplete, UploadSessionCreate, UploadSessionResponse
from utils.exceptions import InvalidRequest

router = make_router("/api/v1/ingest/upload/sessions", tags=["ingest"])

SessionId = Annotated[StrictUuid, Path(description="The upload session's id.")]


def _json(example: Any) -> dict[str, Any]:
    return {"requestBody": {"content": {"application/json": {"example": example}}}}


def session_location(session_id: UUID) -> str:
    """Where a session is found."""
    return f"/api/v1/ingest/upload/sessions/{session_id}"


@router.post(
    "",
    status_code=201,
    operation_id="open_upload_session",
    summary="Begin a direct upload",
    response_model=UploadSessionResponse,
    responses={
        201: answer("PUT the file, or its parts, to the URLs; then complete.", examples.SESSION, location=True),
        **problems(
            "payload_too_large", "unsupported_image_format", "too_many_pending", "unsupported_media_type",
            "request_timeout", "storage_unavailable", *KEYED,
        ),
    },
    openapi_extra={"parameters": [IDEMPOTENCY], **_json(examples.SESSION_NEW)},
)  # fmt: skip
@needs(Scope.INGEST_WRITE)
async def open_upload_session(
    body: UploadSessionCreate,
    request: Request,
    response: Response,
    services: ServicesDep,
    operation: OperationDep,
    who: WhoDep,
) -> Any:
    """For files larger than a form's, and for links that break: what has arrived stays, the rest is sent again.

    The file goes straight to the object store, by URLs that need no credentials. A PUT counts once it was answered 200;
    one that was cut off is repeated."""
    allow_camera(who, body.camera_id)
    name = clean_filename(body.filename.encode())
    if not name:
        raise InvalidRequest.of("filename", "must have a base name", code="filename")
    kind = (body.content_type or "").partition(";")[0].strip().lower() or None
    wanted = body.model_copy(update={"filename": name, "content_type": kind})
    await count_bytes(request, body.size_bytes)
    session = await services.direct.create(wanted, operation.request_id, who)
    response.headers["Location"] = session_location(session.session_id)
    return session


@router.get(
    "/{session_id}",
    operation_id="get_upload_session",
    summary="State of a direct upload",
    response_model=UploadSessionResponse,
    responses={
        200: answer("What has arrived, and fresh URLs for the rest.", examples.SESSION_PARTS),
        **problems("session_not_found", "storage_unavailable"),
    },
)
@needs(Scope.INGEST_WRITE)
async def get_upload_session(session_id: SessionId, services: ServicesDep, who: WhoDep) -> Any:
    """Parts that have arrived have no URL; the others have a fresh one. Ended sessions are known for 7 days."""
    return await services.direct.get(session_id, who)


@router.post(
    "/{session_id}/complete",
    status_code=201,
    operation_id="complete_upload_session",
    summary="Check and store a direct upload",
    response_model=IngestionResponse,
    responses={
        201: answer("Stored; the same answer however often it is asked for.", examples.UPLOADED, location=True),
        **problems(
            "session_not_found", "session_closed", "upload_incomplete", "checksum_mismatch",
            "payload_too_large", "image_too_large", "unsupported_media_type", "unsupported_image_format", "invalid_image",
            "image_type_mismatch", "request_timeout", "storage_unavailable", "disk_full", *KEYED,
        ),
    },
    openapi_extra={"parameters": [IDEMPOTENCY], **_json(examples.SESSION_COMPLETE)},
)  # fmt: skip
@needs(Scope.INGEST_WRITE)
async def complete_upload_session(
    session_id: SessionId,
    request: Request,
    response: Response,
    services: ServicesDep,
    state: StateDep,
    who: WhoDep,
    body: UploadComplete | None = None,
) -> Any:
    """Checked as a form's file is, with the same refusals, which end the session. 409 `upload_incomplete` names the parts
    that are missing. After a 5xx, or no answer at all, ask again: it is stored once."""
    given = body.parts if body is not None else None
    etags = {part.number: part.etag.strip('"') for part in given} if given is not None else None
    if given is not None and etags is not None and len(etags) != len(given):
        raise InvalidRequest.of("parts", "names a part more than once", code="repeated")
    direct = services.direct
    known = await direct.outcome(session_id, who)
    request_id = known.request_id
    if request_id is None:
        await direct.check_store()
        with (
            share(request, "uploads", state.settings.UPLOAD.MAX_CONCURRENT),
            share(request, "upload bytes", state.settings.UPLOAD.MAX_BYTES_IN_FLIGHT, 0) as bytes_share,
            state.uploads.admit(bytes_share, known.size_bytes) as held,
        ):
            held.cover(known.size_bytes)  # it has arrived; how fast it is read is the store's affair
            async with local_file(state, known.size_bytes, known.filename, known.content_type) as file:
                request_id = await direct.complete(session_id, etags, file, who)
    response.headers["Location"] = status_location(request_id)
    return await services.queries.get_request(request_id, who)


@router.delete(
    "/{session_id}",
    status_code=204,
    operation_id="abort_upload_session",
    summary="Give up a direct upload",
    responses={204: {"description": "It is over, and nothing of it is kept."}, **problems("request_in_progress")},
)
@needs(Scope.INGEST_WRITE)
async def abort_upload_session(session_id: SessionId, services: ServicesDep, who: WhoDep) -> None:
    """Any UUID, repeated or unknown: 204. A completed one stays completed: its frame is deleted as any other."""
    await services.direct.abort(session_id, who)
