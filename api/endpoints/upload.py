"""POST /api/v1/ingest/upload: refused before its body is read where possible, else received whole and stored."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.endpoints.requests import status_location
from api.http import examples
from api.http.access.check import WhoDep, allow_camera, count_bytes, share
from api.http.access.rules import needs
from api.http.body import check_encoding, content_length
from api.http.dependencies import ServicesDep, StateDep
from api.http.direct import direct
from api.http.idempotency import begin, form_fingerprint, kept_answer
from api.http.multipart import boundary_of
from api.http.openapi import IDEMPOTENCY, KEYED, answer, problems
from api.http.receive import body_limit, receive_form
from api.http.routing import json_answer, make_router
from models.access import Scope
from models.schemas import IngestionResponse
from models.values import CAMERA_ID_PATTERN
from utils.exceptions import PayloadTooLarge

router = make_router("/api/v1/ingest", tags=["ingest"])

_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["camera_id", "files"],
    "additionalProperties": False,
    "properties": {
        "camera_id": {"type": "string", "pattern": CAMERA_ID_PATTERN, "maxLength": 100},
        "files": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "format": "binary"},
            "description": "UPLOAD__FORMATS say the kinds; at most UPLOAD__MAX_BATCH_SIZE of UPLOAD__MAX_FILE_SIZE bytes.",
        },
        "meta": {
            "anyOf": [{"$ref": "#/components/schemas/FrameMeta"}, {"type": "null"}],
            "description": "As JSON; may be absent or empty.",
        },
        "source_type": {"type": "string", "enum": ["upload"], "default": "upload"},
    },
}
_EXAMPLE = {"camera_id": "pit-lane-1", "files": ["car-44.jpg"], "meta": {"session": "FP1"}}


@router.post(
    "/upload",
    status_code=201,
    operation_id="upload_images",
    summary="Upload images",
    response_model=IngestionResponse,
    responses={
        201: answer("At least one file was stored; `rejected` has the others.", examples.UPLOADED, location=True),
        **problems(
            "request_timeout", "payload_too_large", "too_many_files", "image_too_large", "unsupported_media_type",
            "unsupported_image_format", "invalid_image", "image_type_mismatch", "storage_unavailable",
            "disk_full", *KEYED,
        ),
    },
    openapi_extra={
        "parameters": [IDEMPOTENCY],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": _FORM, "example": _EXAMPLE, "encoding": {"meta": {"contentType": "application/json"}},
                }
            },
        },
    },
)  # fmt: skip
@needs(Scope.INGEST_WRITE)
@direct
async def upload_images(request: Request, services: ServicesDep, state: StateDep, who: WhoDep) -> Response:
    """Each file is stored or refused by itself, its bytes unchanged. If none is stored, the answer is the first
    file's problem with all of `rejected`."""
    services.orchestrator.check_accepting()
    await services.direct.check_store()
    # Nothing of the body has been read: a client that waits for 100 Continue gets the refusal instead.
    declared = content_length(request)
    if declared is not None:
        await count_bytes(request, declared)
    bounds = state.settings.UPLOAD
    with (
        share(request, "uploads", bounds.MAX_CONCURRENT),
        share(request, "upload bytes", bounds.MAX_BYTES_IN_FLIGHT, 0) as bytes_share,
        state.uploads.admit(bytes_share, declared or 0) as held,
    ):
        boundary = boundary_of(request.headers.get("content-type", ""))
        check_encoding(request)
        if declared is not None and declared > body_limit(state.settings):
            raise PayloadTooLarge("The body is larger than UPLOAD__MAX_BATCH_SIZE files of UPLOAD__MAX_FILE_SIZE.")
        async with receive_form(request, boundary, state, held, declared) as form:
            allow_camera(who, form.fields.camera_id)
            if declared is None:
                await count_bytes(request, sum(file.size for file in form.files))
            operation = await begin(request, form_fingerprint(form))
            operation.answers(201, lambda stored: status_location(stored.request_id))
            stored = await services.orchestrator.ingest_upload(form.fields, form.files, operation)
    if (kept := await kept_answer(request, operation)) is not None:
        return kept
    headers = {"Location": status_location(operation.request_id if stored is None else stored.request.id)}
    if stored is None:  # another run of this key was first: its answer takes the place of this one
        found = await services.queries.request_body(operation.request_id, who)
    else:
        found = await services.queries.upload_body(stored)
    return json_answer(found, headers, 201)
