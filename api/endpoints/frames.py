"""/api/v1/frames: rows, and the pictures' bytes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Depends, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from api.http import examples
from api.http.access.check import WhoDep
from api.http.access.rules import needs
from api.http.dependencies import ServicesDep
from api.http.direct import direct
from api.http.errors import problem_response
from api.http.openapi import answer, problems
from api.http.params import Cursor, Flag, FrameId, Limit, MetaText, StrictUuid
from api.http.ranges import Span, Unsatisfiable, none_match, requested_span
from api.http.routing import json_answer, make_router
from api.http.streaming import begun
from models.access import Scope
from models.schemas import CameraId, FrameInfo, FramePage, HoldRequest, NearestFrame, Timestamp
from models.values import FrameFilter, Phase, QualityVerdict, SourceType
from utils.exceptions import RangeNotSatisfiable

router = make_router("/api/v1/frames", tags=["frames"])


async def _filter(
    camera_id: Annotated[CameraId | None, Query()] = None,
    request_id: Annotated[StrictUuid | None, Query()] = None,
    from_: Annotated[Timestamp | None, Query(alias="from", description="Capture time, inclusive.")] = None,
    to: Annotated[Timestamp | None, Query(description="Capture time, exclusive.")] = None,
    stored_from: Annotated[
        Timestamp | None, Query(description="`stored_at`, inclusive: what a reader of events missed, for example.")
    ] = None,
    stored_to: Annotated[Timestamp | None, Query(description="`stored_at`, exclusive.")] = None,
    source_type: Annotated[SourceType | None, Query()] = None,
    subject: Annotated[MetaText | None, Query(description="`meta.subject`.", examples=["car-44"])] = None,
    session: Annotated[MetaText | None, Query(description="`meta.session`.", examples=["FP1"])] = None,
    phase: Annotated[Phase | None, Query(description="`meta.phase`.")] = None,
    quality: Annotated[QualityVerdict | None, Query(description="`quality.verdict`.")] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="By `timestamp`.")] = "asc",
) -> FrameFilter:
    return FrameFilter(
        camera_id=camera_id, request_id=request_id, from_=from_, to=to, stored_from=stored_from, stored_to=stored_to,
        source_type=source_type, subject=subject, session=session, phase=phase, quality=quality,
        descending=order == "desc",
    )  # fmt: skip


@router.get(
    "",
    operation_id="list_frames",
    summary="Frames by capture time",
    response_model=FramePage,
    responses={200: answer("A page.", examples.FRAME_PAGE), **problems()},
)
@needs(Scope.FRAMES_READ)
@direct
async def list_frames(
    services: ServicesDep,
    who: WhoDep,
    matching: Annotated[FrameFilter, Depends(_filter)],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    return json_answer(await services.queries.frames_body(matching, limit, cursor, who))


# Before /{frame_id}, which would take "nearest" for an id.
@router.get(
    "/nearest",
    operation_id="nearest_frame",
    summary="The camera's frame closest to a moment",
    response_model=NearestFrame,
    responses={200: answer("The frame.", examples.NEAREST), **problems("frame_not_found")},
)
@needs(Scope.FRAMES_READ)
async def nearest_frame(
    services: ServicesDep, who: WhoDep, camera_id: Annotated[CameraId, Query()], at: Annotated[Timestamp, Query()]
) -> Any:
    return await services.queries.nearest_frame(camera_id, at, who)


@router.get(
    "/{frame_id}",
    operation_id="get_frame",
    summary="One frame",
    response_model=FrameInfo,
    responses={200: answer("The frame.", examples.FRAME), **problems("frame_not_found")},
)
@needs(Scope.FRAMES_READ)
async def get_frame(frame_id: FrameId, services: ServicesDep, who: WhoDep) -> Any:
    return await services.queries.get_frame(frame_id, who)


@router.delete(
    "/{frame_id}",
    status_code=204,
    operation_id="delete_frame",
    summary="Delete a frame",
    responses=problems("storage_unavailable", "frame_on_hold", "frame_in_pair"),
)
@needs(Scope.FRAMES_DELETE)
async def delete_frame(
    frame_id: FrameId,
    services: ServicesDep,
    who: WhoDep,
    force: Annotated[Flag, Query(description="A frame in pairs too; the pairs go with it.")] = False,
) -> Response:
    """Row and object; 204 also when repeated or unknown."""
    await services.queries.delete_frame(frame_id, who, force=force)
    return Response(status_code=204)


@router.post(
    "/{frame_id}/hold",
    operation_id="hold_frame",
    summary="Put a frame on hold",
    response_model=FrameInfo,
    responses={
        200: answer("On hold.", examples.HELD),
        **problems("frame_not_found", "payload_too_large", "unsupported_media_type", "request_timeout"),
    },
    openapi_extra={"requestBody": {"content": {"application/json": {"example": examples.HOLD}}}},
)
@needs(Scope.FRAMES_DELETE)
async def hold_frame(frame_id: FrameId, services: ServicesDep, who: WhoDep, body: HoldRequest | None = None) -> Any:
    """Until it is released nobody deletes it: neither retention nor a client (409). Repeating it is fine."""
    return await services.queries.hold_frame(frame_id, body.reason if body else None, who)


@router.delete(
    "/{frame_id}/hold",
    status_code=204,
    operation_id="release_frame",
    summary="End a frame's hold",
    responses=problems("frame_not_found"),
)
@needs(Scope.FRAMES_DELETE)
async def release_frame(frame_id: FrameId, services: ServicesDep, who: WhoDep) -> Response:
    """204 also for a frame that is on none."""
    await services.queries.release_frame(frame_id, who)
    return Response(status_code=204)


@router.get(
    "/{frame_id}/content",
    operation_id="get_frame_content",
    summary="The picture's bytes",
    response_class=Response,
    status_code=307,
    response_description="To the presigned URL.",
    responses={
        200: {
            "description": "With proxy=true: the bytes, as they were stored.",
            "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
            "headers": {"ETag": {"description": "The SHA-256, quoted.", "schema": {"type": "string"}}},
        },
        206: {"description": "One range.", "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "If-None-Match names the ETag."},
        307: {"headers": {"Location": {"description": "Presigned URL.", "schema": {"type": "string"}}}},
        **problems("frame_not_found", "range_not_satisfiable", "image_too_large", "invalid_image", "storage_unavailable"),
    },
)
@needs(Scope.FRAMES_READ)
async def get_frame_content(
    frame_id: FrameId,
    request: Request,
    services: ServicesDep,
    who: WhoDep,
    proxy: Annotated[Flag, Query(description="true: the bytes from here, instead of the redirect.")] = False,
    as_: Annotated[
        Literal["jpeg"] | None,
        Query(alias="as", description="jpeg: a frame of another kind as JPEG in its size, made now and sent from here."),
    ] = None,
) -> Response:
    made = await services.jpegs.open(frame_id, who) if as_ is not None else None
    content = made or await services.queries.open_frame(frame_id, who)
    head = bool(request.scope.get("trackshift.head"))
    if not (proxy or head) and content.presigned_url is not None:
        return RedirectResponse(content.presigned_url, 307, headers={"Cache-Control": "no-store"})
    etag = content.etag
    # The bytes never change, but the frame may be deleted: clients keep them and ask.
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache"}
    headers["Content-Security-Policy"] = "sandbox"  # a picture that a browser takes for a page runs nothing
    if none_match(_joined(request, "if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    size = await content.size()
    span: Span | None = None
    if not head:  # RFC 9110: Range is for GET only
        try:
            span = requested_span(_joined(request, "range"), request.headers.get("if-range"), etag, size)
        except Unsatisfiable:
            return problem_response(request.scope, RangeNotSatisfiable(), {"Content-Range": f"bytes */{size}"})
    headers["Content-Disposition"] = content.disposition
    start, stop = (span.start, span.stop) if span else (0, size)
    headers["Content-Length"] = str(stop - start)
    if span:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    status = 206 if span else 200
    if head:
        return Response(status_code=status, headers=headers, media_type=content.content_type)
    body = await begun(content.read(start, stop))
    return StreamingResponse(body, status, headers, media_type=content.content_type)


def _joined(request: Request, name: str) -> str | None:
    """A list header that came on several lines is one list."""
    values = request.headers.getlist(name)
    return ", ".join(values) if values else None
