"""/api/v1/cameras/{camera_id}/latest.jpg: what dashboards embed."""

from __future__ import annotations

import time
from email.utils import format_datetime
from typing import Annotated

from annotated_types import Ge, Le
from fastapi import Path, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from api.http.access.check import WhoDep
from api.http.access.rules import needs
from api.http.dependencies import ServicesDep
from api.http.openapi import problems
from api.http.params import StrictSeconds
from api.http.ranges import none_match
from api.http.routing import make_router
from api.http.streaming import begun
from models.access import Scope
from models.schemas import CameraId, format_time

router = make_router("/api/v1/cameras", tags=["cameras"])

_TEXT = {"schema": {"type": "string"}}
_HEADERS = {
    "ETag": {"description": "Of this picture.", **_TEXT},
    "Last-Modified": {"description": "Its capture time, to the second.", **_TEXT},
    "X-Picture-Timestamp": {"description": "Its capture time.", "schema": {"type": "string", "format": "date-time"}},
    "X-Picture-Age": {"description": "Seconds since then.", "schema": {"type": "number"}},
    "X-Picture-Source": {
        "description": "The open stream, or a stored frame.", "schema": {"type": "string", "enum": ["stream", "frame"]}
    },
}  # fmt: skip


@router.get(
    "/{camera_id}/latest.jpg",
    operation_id="latest_picture",
    summary="The camera's newest picture",
    response_class=Response,
    responses={
        200: {
            "description": "A JPEG.", "headers": _HEADERS,
            "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
        },
        304: {"description": "If-None-Match names the ETag."},
        **problems("camera_not_found", "frame_not_found", "image_too_large", "invalid_image", "storage_unavailable"),
    },
)  # fmt: skip
@needs(Scope.FRAMES_READ)
async def latest_picture(
    camera_id: Annotated[CameraId, Path(description="The camera's id.")],
    request: Request,
    services: ServicesDep,
    who: WhoDep,
    max_age: Annotated[
        float | None, Ge(0), Le(999_999_999), StrictSeconds,
        Query(description="Seconds: 404 `frame_not_found` when the newest picture is older."),
    ] = None,
) -> Response:  # fmt: skip
    """Of the open stream, whichever process has it, else the newest stored frame. Opens nothing and stores nothing."""
    picture = await services.latest.get(camera_id, who, max_age)
    headers = {
        "ETag": picture.etag, "Cache-Control": "private, no-cache",
        "Content-Security-Policy": "sandbox",  # a picture that a browser takes for a page runs nothing
        "Last-Modified": format_datetime(picture.at.replace(microsecond=0), usegmt=True),
        "X-Picture-Timestamp": format_time(picture.at),
        "X-Picture-Age": f"{max(0.0, time.time() - picture.at.timestamp()):.3f}",
        "X-Picture-Source": picture.source,
    }  # fmt: skip
    asked = request.headers.getlist("if-none-match")
    if none_match(", ".join(asked) if asked else None, picture.etag):
        return Response(status_code=304, headers=headers)
    size, chunks = await picture.load()
    headers |= {"Content-Length": str(size), "Content-Disposition": f'inline; filename="{camera_id}.jpg"'}
    return StreamingResponse(await begun(chunks), headers=headers, media_type="image/jpeg")
