"""Captures: what is asked for, triggers, the events of event_driven captures."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from models.schemas.base import CameraId, FrameMeta, Input, Output, RtspUrl, Timestamp
from models.values import CaptureMode, Encoding, EventKind, Sampling, Transport


class MotionSettings(Input):
    """What counts as an event (event_driven)."""

    enabled: bool | None = Field(None, description="false: external triggers only, nothing is decoded between them.")
    threshold: float | None = Field(
        None, gt=0, le=255, description="Grey levels (of 256) by which a point differs from the background; 20 when absent."
    )
    min_area: float | None = Field(
        None, gt=0, le=1, description="Share of the picture that one connected moving patch must cover; 0.005 when absent."
    )
    cooldown: float | None = Field(
        None, ge=0, le=3600, description="Seconds after an event until motion may begin another; 2 when absent."
    )


class Pick(Input):
    """Of several pictures around the moment, or around each slot's time, the sharpest is stored; the others are not."""

    of: int = Field(ge=2, le=25, description="Pictures that are compared, the nearest ones; at most 5 a slot in continuous.")
    within_s: float = Field(
        ge=0, le=5, description="Seconds from the moment; in continuous at most half a slot, in a burst its tolerance."
    )
    best: Literal["sharpest"] = "sharpest"


_UNUSED_BY_MODE: dict[CaptureMode, tuple[str, ...]] = {
    CaptureMode.SINGLE_FRAME: ("pre_roll", "post_roll", "motion"),
    CaptureMode.CONTINUOUS: ("frame_timestamp", "pre_roll", "post_roll", "motion"),
    CaptureMode.EVENT_DRIVEN: ("frame_timestamp", "pick"),
}


class RTSPIngestionRequest(Input):
    """POST /api/v1/ingest/rtsp."""

    source_type: Literal["rtsp"] = "rtsp"
    rtsp_url: RtspUrl | None = Field(None, description="May carry user:password; never shown again.")
    camera_id: CameraId
    capture_mode: CaptureMode = Field(CaptureMode.SINGLE_FRAME, strict=False)
    frame_timestamp: Timestamp | None = Field(None, description="single_frame: the frame nearest to this moment.")
    capture_duration: float | None = Field(None, gt=0, le=3600, description="Seconds; null: until cancelled.")
    fps: float | None = Field(None, gt=0, le=30, description="Frames a second on the request's grid.")
    sampling: Sampling = Field(Sampling.AUTO, strict=False, description="With encoding source: keyframe when absent.")
    max_frames: int | None = Field(None, ge=1, le=100_000)
    jpeg_quality: int = Field(90, ge=50, le=100, description="Not with encoding source.")
    encoding: Encoding | None = Field(
        None, strict=False,
        description="source: the camera's own keyframe as it came, in a file of one picture (MP4, of Motion JPEG a JPEG). "
        "null: the camera's, else jpeg.",
    )  # fmt: skip
    transport: Transport | None = Field(None, strict=False)
    pre_roll: float | None = Field(None, ge=0, le=30, description="event_driven, seconds; 2 when absent.")
    post_roll: float | None = Field(None, ge=0, le=30, description="event_driven, seconds; 5 when absent.")
    motion: MotionSettings | None = None
    pick: Pick | None = Field(None, description="Not with event_driven. With sampling keyframe, keyframes are compared.")
    meta: FrameMeta = Field(default_factory=lambda: FrameMeta())

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"camera_id": "pit-lane-1", "rtsp_url": "rtsp://127.0.0.1:8554/demo", "capture_mode": "single_frame"},
                {
                    "camera_id": "pit-lane-1", "rtsp_url": "rtsp://127.0.0.1:8554/demo", "capture_mode": "continuous",
                    "capture_duration": 5, "fps": 2, "meta": {"session": "FP1"},
                },
            ]
        }
    )  # fmt: skip

    @model_validator(mode="after")
    def _fits_mode(self) -> RTSPIngestionRequest:
        for name in _UNUSED_BY_MODE[self.capture_mode]:
            if getattr(self, name) is not None:
                raise PydanticCustomError(
                    "not_applicable", "{field} does not apply to capture_mode {mode}",
                    {"field": name, "mode": self.capture_mode.value},
                )  # fmt: skip
        if self.encoding is Encoding.SOURCE and self.only_jpeg is not None:
            raise not_source(self.only_jpeg)
        return self

    @property
    def only_jpeg(self) -> str | None:
        """The field that asks for what the camera's own pictures cannot be: another sampling, a quality; None: none does."""
        sampled = "sampling" in self.model_fields_set and self.capture_mode is not CaptureMode.SINGLE_FRAME
        if sampled and self.sampling is not Sampling.KEYFRAME:
            return "sampling"
        return "jpeg_quality" if "jpeg_quality" in self.model_fields_set else None


def not_source(field: str) -> PydanticCustomError:
    """That the field asks for what `encoding: source` cannot give."""
    why = "sampling must be keyframe" if field == "sampling" else f"{field} does not apply"
    return PydanticCustomError(
        "not_applicable", "encoding source stores the camera's own keyframes as they came: {why}",
        {"field": field, "why": why},
    )  # fmt: skip


class TriggerRequest(Input):
    """POST /api/v1/ingest/requests/{request_id}/trigger."""

    label: str | None = Field(None, min_length=1, max_length=200, examples=["car 44 enters"])
    at: Timestamp | None = Field(
        None,
        description="When it happened; now when absent. At most RTSP__RING_SECONDS ago, not before the capture's first "
        "picture, at most 10 s ahead.",
    )


class TriggerAccepted(Output):
    event_id: UUID


class CaptureEventInfo(Output):
    """An event of an event_driven capture. Its frames are those with `sequence` from first to last of this request."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)

    event_id: UUID
    request_id: UUID
    kind: EventKind
    label: str | None
    score: float | None = Field(description="motion: the largest share of the picture that moved.")
    from_: Timestamp = Field(alias="from", description="Capture time at which it began; pre_roll seconds before are stored.")
    to: Timestamp | None = Field(description="When it was over, null while it lasts; post_roll seconds after are stored.")
    frames: int = Field(description="Stored frames of its slots; events that overlap share them.")
    first_sequence: int | None = Field(description="Its first slot, pre-roll included; null when the grid has none for it.")
    last_sequence: int | None
    created_at: Timestamp


class EventPage(Output):
    items: list[CaptureEventInfo]
    next_cursor: str | None
