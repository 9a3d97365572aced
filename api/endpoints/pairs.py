"""/api/v1/pairs: two stored frames, before and after, how they lie on each other, and what changed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from fastapi import Depends, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from api.http import examples
from api.http.access.check import WhoDep
from api.http.access.rules import needs
from api.http.dependencies import ServicesDep
from api.http.openapi import IDEMPOTENCY, KEYED, answer, problems
from api.http.params import Cursor, Limit, MetaText, StrictInteger, StrictUuid
from api.http.ranges import none_match
from api.http.routing import make_router
from models.access import Scope
from models.schemas import CameraId, MatchRequest, MatchResponse, Pair, PairCreate, PairPage, Timestamp
from models.values import PairFilter

router = make_router("/api/v1/pairs", tags=["pairs"])

PairId = Annotated[StrictUuid, Path(description="The pair's id.")]
_BODY = ("payload_too_large", "unsupported_media_type", "request_timeout", *KEYED)
_PICTURE = {"schema": {"type": "string", "format": "binary"}}


async def _filter(
    label: Annotated[MetaText | None, Query()] = None,
    subject: Annotated[MetaText | None, Query()] = None,
    camera_id: Annotated[CameraId | None, Query(description="Of either frame.")] = None,
    session: Annotated[MetaText | None, Query(description="`meta.session` of before, else of after.")] = None,
    from_: Annotated[Timestamp | None, Query(alias="from", description="`created_at`, inclusive.")] = None,
    to: Annotated[Timestamp | None, Query(description="`created_at`, exclusive.")] = None,
) -> PairFilter:
    return PairFilter(label=label, subject=subject, session=session, camera_id=camera_id, from_=from_, to=to)


@router.post(
    "",
    status_code=201,
    operation_id="create_pair",
    summary="Pair two frames",
    response_model=Pair,
    responses={
        201: answer("The pair; the same one again for the same frames and label.", examples.PAIR, location=True),
        **problems("frame_not_found", "no_frame", "same_frame", *_BODY),
    },
    openapi_extra={
        "parameters": [IDEMPOTENCY],
        "requestBody": {"content": {"application/json": {"example": examples.PAIR_NEW}}},
    },
)
@needs(Scope.FRAMES_READ, Scope.INGEST_WRITE)
async def create_pair(body: PairCreate, response: Response, services: ServicesDep, who: WhoDep) -> Any:
    """Aligned within 10 s, else `alignment.status` is `pending` and the event `pair.aligned` tells of the end."""
    pair = await services.pairs.create(body, who)
    response.headers["Location"] = f"/api/v1/pairs/{pair.pair_id}"
    return pair


@router.post(
    "/match",
    status_code=201,
    operation_id="match_pairs",
    summary="Pair the frames of two sides",
    response_model=MatchResponse,
    responses={
        201: answer("The pairs, aligned in the background.", examples.MATCH, location=True),
        **problems(*_BODY),
    },
    openapi_extra={
        "parameters": [IDEMPOTENCY],
        "requestBody": {"content": {"application/json": {"example": examples.MATCH_NEW}}},
    },
)
@needs(Scope.FRAMES_READ, Scope.INGEST_WRITE)
async def match_pairs(body: MatchRequest, response: Response, services: ServicesDep, who: WhoDep) -> Any:
    """For each camera or camera angle with frames on both sides the two that are closest in time."""
    found = await services.pairs.match(body, who)
    response.headers["Location"] = "/api/v1/pairs"
    return found


@router.get(
    "",
    operation_id="list_pairs",
    summary="Pairs, newest first",
    response_model=PairPage,
    responses={200: answer("A page.", examples.PAIR_PAGE), **problems()},
)
@needs(Scope.FRAMES_READ)
async def list_pairs(
    services: ServicesDep,
    who: WhoDep,
    matching: Annotated[PairFilter, Depends(_filter)],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    return await services.pairs.page(matching, limit, cursor, who)


@router.get(
    "/{pair_id}",
    operation_id="get_pair",
    summary="One pair",
    response_model=Pair,
    responses={200: answer("The pair.", examples.PAIR), **problems("pair_not_found")},
)
@needs(Scope.FRAMES_READ)
async def get_pair(pair_id: PairId, services: ServicesDep, who: WhoDep) -> Any:
    return await services.pairs.get(pair_id, who)


@router.delete(
    "/{pair_id}",
    status_code=204,
    operation_id="delete_pair",
    summary="Delete a pair",
    responses=problems("pair_not_found"),
)
@needs(Scope.FRAMES_DELETE)
async def delete_pair(pair_id: PairId, services: ServicesDep, who: WhoDep) -> Response:
    """The pair only: its frames stay."""
    await services.pairs.delete(pair_id, who)
    return Response(status_code=204)


@router.get(
    "/{pair_id}/view",
    operation_id="view_pair",
    summary="A picture of the pair",
    response_class=Response,
    responses={
        200: {
            "description": "A JPEG; of `difference` a PNG.",
            "headers": {"ETag": {"description": "Of this picture.", "schema": {"type": "string"}}},
            "content": {"image/jpeg": _PICTURE, "image/png": _PICTURE},
        },
        304: {"description": "If-None-Match names the ETag."},
        **problems("pair_not_found", "pair_not_aligned", "image_too_large", "invalid_image", "storage_unavailable"),
    },
)
@needs(Scope.FRAMES_READ)
async def view_pair(
    pair_id: PairId,
    request: Request,
    services: ServicesDep,
    who: WhoDep,
    kind: Annotated[
        Literal["before", "after", "aligned", "side", "blend", "difference"],
        Query(description="aligned: after as before's camera would see it. difference: the SSIM map as heat."),
    ] = "side",
    width: Annotated[
        int, Ge(1), Le(1920), StrictInteger, Query(description="Pixels, rounded up to 320, 640, 960, 1280 or 1920.")
    ] = 960,
) -> Response:
    etag, load = await services.pairs.view(pair_id, kind, width, who)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Content-Security-Policy": "sandbox"}
    asked = request.headers.getlist("if-none-match")
    if none_match(", ".join(asked) if asked else None, etag):
        return Response(status_code=304, headers=headers)
    return Response(await load(), headers=headers, media_type="image/png" if kind == "difference" else "image/jpeg")
