"""/api/v1/frames/{frame_id}: its thumbnail, and whether its bytes are still those that were stored."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Le
from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from api.http import examples
from api.http.access.check import WhoDep
from api.http.access.rules import needs
from api.http.dependencies import ServicesDep
from api.http.openapi import answer, problems
from api.http.params import FrameId, StrictInteger
from api.http.ranges import none_match
from api.http.routing import make_router
from models.access import Scope
from models.schemas import VerifiedFrame

router = make_router("/api/v1/frames", tags=["frames"])


@router.get(
    "/{frame_id}/thumbnail",
    operation_id="get_thumbnail",
    summary="The picture, small",
    response_class=Response,
    responses={
        200: {
            "description": "A JPEG, upright, without EXIF.",
            "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
            "headers": {"ETag": {"description": "Of this picture in this width.", "schema": {"type": "string"}}},
        },
        304: {"description": "If-None-Match names the ETag."},
        **problems("frame_not_found", "image_too_large", "invalid_image", "storage_unavailable"),
    },
)
@needs(Scope.FRAMES_READ)
async def get_thumbnail(
    frame_id: FrameId,
    request: Request,
    services: ServicesDep,
    who: WhoDep,
    width: Annotated[
        int, Ge(1), Le(1024), StrictInteger,
        Query(description="Pixels, rounded up to 160, 320, 480, 640 or 1024. A smaller picture is not enlarged."),
    ] = 320,
) -> Response:  # fmt: skip
    """Made once and kept in the object store until the frame is deleted."""
    thumbnail = await services.thumbnails.get(frame_id, width, who)
    headers = {"ETag": thumbnail.etag, "Cache-Control": "private, no-cache"}
    headers["Content-Security-Policy"] = "sandbox"  # a picture that a browser takes for a page runs nothing
    asked = request.headers.getlist("if-none-match")
    if none_match(", ".join(asked) if asked else None, thumbnail.etag):
        return Response(status_code=304, headers=headers)
    data = await thumbnail.load()
    headers["Content-Disposition"] = f'inline; filename="{frame_id}.jpg"'
    return Response(data, headers=headers, media_type="image/jpeg")


@router.post(
    "/{frame_id}/verify",
    operation_id="verify_frame",
    summary="Read the stored bytes and compare them",
    response_model=VerifiedFrame,
    responses={200: answer("What was read.", examples.VERIFIED), **problems("frame_not_found", "storage_unavailable")},
)
@needs(Scope.FRAMES_READ)
async def verify_frame(frame_id: FrameId, services: ServicesDep, who: WhoDep) -> Any:
    """All bytes are read from the object store. `ok`: they are those whose SHA-256 and size the frame was stored with."""
    return await services.queries.verify_frame(frame_id, who)
