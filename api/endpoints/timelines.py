"""A camera over time: /api/v1/frames/histogram, /api/v1/cameras/{camera_id}/gaps and /losses."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Le
from fastapi import Path, Query

from api.http import examples
from api.http.access.check import WhoDep
from api.http.access.rules import needs
from api.http.dependencies import ServicesDep
from api.http.openapi import answer, problems
from api.http.params import Cursor, Limit, StrictSeconds
from api.http.routing import make_router
from models.access import Scope
from models.schemas import CameraGapPage, CameraId, Histogram, Losses, Timestamp
from models.values import GapFilter

router = make_router("/api/v1", tags=[])
Bucket = Annotated[
    float, Ge(0.001), Le(31_622_400), StrictSeconds, Query(description="Seconds a bucket; at most 2000 buckets.")
]


@router.get(
    "/frames/histogram",
    tags=["frames"],
    operation_id="frames_histogram",
    summary="How many frames of a camera, over time",
    response_model=Histogram,
    responses={200: answer("The buckets.", examples.HISTOGRAM), **problems("overloaded")},
)
@needs(Scope.FRAMES_READ)
async def frames_histogram(
    services: ServicesDep,
    who: WhoDep,
    camera_id: Annotated[CameraId, Query()],
    from_: Annotated[Timestamp, Query(alias="from", description="Capture time, inclusive; the first bucket begins here.")],
    to: Annotated[Timestamp, Query(description="Capture time, exclusive.")],
    bucket_s: Bucket = 60,
) -> Any:
    """Buckets without frames are listed, too. A camera without frames has empty buckets only."""
    return await services.timelines.histogram(camera_id, from_, to, bucket_s, who)


@router.get(
    "/cameras/{camera_id}/gaps",
    tags=["cameras"],
    operation_id="list_gaps",
    summary="When captures of a camera had no pictures",
    response_model=CameraGapPage,
    responses={200: answer("A page.", examples.GAP_PAGE), **problems("camera_not_found")},
)
@needs(Scope.CAMERAS_READ)
async def list_gaps(
    camera_id: Annotated[CameraId, Path(description="The camera's id; it need not be registered.")],
    services: ServicesDep,
    who: WhoDep,
    from_: Annotated[Timestamp | None, Query(alias="from", description="Gaps that last at this time or later.")] = None,
    to: Annotated[Timestamp | None, Query(description="Gaps that began before this time.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    """By the time at which they began; each is told whole, also where it began before `from`. Captures of one camera
    have gaps of their own, which may overlap."""
    return await services.timelines.gaps(GapFilter(camera_id, from_, to), limit, cursor, who)


@router.get(
    "/cameras/{camera_id}/losses",
    tags=["cameras"],
    operation_id="camera_losses",
    summary="How many slots of a camera's captures were dropped, over time",
    response_model=Losses,
    responses={200: answer("The buckets.", examples.LOSSES), **problems("camera_not_found", "overloaded")},
)
@needs(Scope.CAMERAS_READ)
async def camera_losses(
    camera_id: Annotated[CameraId, Path(description="The camera's id; it need not be registered.")],
    services: ServicesDep,
    who: WhoDep,
    from_: Annotated[
        Timestamp, Query(alias="from", description="When slots were due, inclusive; the first bucket begins here.")
    ],
    to: Annotated[Timestamp, Query(description="When slots were due, exclusive.")],
    bucket_s: Bucket = 60,
) -> Any:
    """By the time at which each slot was due, all captures of the camera together. Buckets without loss are listed, too.
    Counted are the camera's captures that run, at most 1000, and the newest 1000 that were made before `to`; what older ones
    dropped is left out: ask for a shorter time with an earlier `to`."""
    return await services.timelines.losses(camera_id, from_, to, bucket_s, who)
