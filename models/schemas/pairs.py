"""Pairs: two stored frames, before and after."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from models.schemas.base import TEXT_PATTERN, BoundedObject, CameraId, NullIsAbsent, Output, Timestamp
from models.schemas.frames import FrameInfo
from models.values import AlignmentStatus, Phase

_Text = Annotated[str, Field(min_length=1, max_length=200, pattern=TEXT_PATTERN)]
_Session = Annotated[str, Field(min_length=1, max_length=1000, pattern=TEXT_PATTERN)]


class FrameRef(NullIsAbsent):
    """A frame by its id, or the camera's frame nearest to a moment."""

    frame_id: Annotated[UUID, Field(strict=False)] | None = None
    camera_id: CameraId | None = None
    at: Timestamp | None = None
    within_s: float | None = Field(None, gt=0, le=86_400, description="How far from `at` it may lie; 5 when absent.")

    @model_validator(mode="after")
    def _one_way(self) -> FrameRef:
        by_camera = self.camera_id is not None and self.at is not None
        other = self.camera_id is not None or self.at is not None or self.within_s is not None
        if by_camera is (self.frame_id is not None) or (self.frame_id is not None and other):
            raise PydanticCustomError("frame_ref", "must be frame_id alone, or camera_id and at (and within_s)")
        return self


class PairCreate(NullIsAbsent):
    """POST /api/v1/pairs."""

    before: FrameRef
    after: FrameRef
    label: _Text | None = Field(None, examples=["car-44 FP1"])
    subject: _Text | None = Field(None, description="before's `meta.subject` when absent.", examples=["car-44"])
    meta: BoundedObject = Field(default_factory=dict)
    align: bool = True


class MatchSide(NullIsAbsent):
    """Which frames may be this side; times are capture times, `from` inclusive, `to` exclusive."""

    session: _Session | None = Field(None, examples=["FP1"])
    subject: _Text | None = None
    phase: Phase | None = Field(None, strict=False)
    from_: Timestamp | None = Field(None, alias="from")
    to: Timestamp | None = None
    camera_ids: list[CameraId] | None = Field(None, min_length=1, max_length=200)


class MatchRequest(NullIsAbsent):
    """POST /api/v1/pairs/match."""

    before: MatchSide
    after: MatchSide
    by: Literal["camera_id", "camera_angle"] = "camera_id"
    choose: Literal["nearest", "sharpest"] = Field(
        "nearest",
        description="nearest: the two that are closest in time. sharpest: of each side, the sharpest of the same camera "
        "and size within 10 minutes of these.",
    )
    label: _Text | None = None


class ChangedRegion(Output):
    """A rectangle that changed, in before's pixels."""

    x: int
    y: int
    width: int
    height: int
    score: float = Field(description="1 minus the mean SSIM of what changed in it.")


class Alignment(Output):
    status: AlignmentStatus
    reason: str | None = Field(
        None, description="Of failed: one_colour, too_few_inliers, image_too_large, invalid_image, timeout, crashed."
    )
    method: str | None = None
    matrix: list[float] | None = Field(None, description="Row by row, 3 x 3: maps after's pixels onto before's.")
    inliers: int | None = None
    overlap: float | None = Field(None, description="The share of before that after shows.")
    shift_px: float | None = Field(None, description="How far the centre moved, in before's pixels.")
    ssim: float | None = Field(None, description="Mean SSIM over the overlap.")
    changed_share: float | None = Field(None, description="The share of the overlap that changed.")
    regions: list[ChangedRegion] = Field(default_factory=list, description="What changed most, at most 20.")


class Pair(Output):
    pair_id: UUID
    label: str | None
    subject: str | None
    meta: dict[str, Any]
    before: FrameInfo
    after: FrameInfo
    seconds_apart: float = Field(description="after's `timestamp` minus before's.")
    alignment: Alignment
    created_at: Timestamp


class PairPage(Output):
    items: list[Pair]
    next_cursor: str | None


class Unmatched(Output):
    key: str | None = Field(description="The camera_id or camera_angle; null: frames without a camera_angle.")
    side: Literal["before", "after"]
    code: Literal["no_frame", "same_frame", "no_camera_angle"] = Field(description="no_frame: this side has none.")


class MatchResponse(Output):
    items: list[Pair]
    unmatched: list[Unmatched]
