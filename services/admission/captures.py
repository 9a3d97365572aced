"""Captures: what a client asks for becomes a row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from models.access import Principal, Scope
from models.entities import CameraConfiguration, IngestionRequest
from models.schemas import RTSPIngestionRequest
from models.values import (
    CaptureMode,
    CaptureParams,
    Encoding,
    MotionParams,
    NewCapture,
    PickParams,
    Sampling,
    Transport,
)
from utils.exceptions import CameraDisabled, Forbidden, InvalidRequest, TimestampOutOfRange
from utils.ids import new_id
from utils.secret_box import SecretBox

FUTURE_LIMIT = timedelta(hours=24)


def check_moment(body: RTSPIngestionRequest, ring_seconds: float) -> None:
    """Raises TimestampOutOfRange for a `frame_timestamp` that no stream can have a picture of."""
    if body.frame_timestamp is None:
        return
    ahead = body.frame_timestamp - datetime.now(UTC)
    if ahead > FUTURE_LIMIT or -ahead > timedelta(seconds=ring_seconds):
        raise TimestampOutOfRange.of(
            "frame_timestamp",
            "lies more than RTSP__RING_SECONDS ago or more than 24 h ahead",
            code="timestamp_out_of_range",
        )


def capture_row(
    body: RTSPIngestionRequest,
    camera: CameraConfiguration | None,
    secrets: SecretBox,
    *,
    default_fps: float,
    max_staleness: float = 0,
) -> IngestionRequest:
    """The row of a new, pending capture. As `new_capture`."""
    made = new_capture(body, camera, secrets, default_fps=default_fps, max_staleness=max_staleness)
    return IngestionRequest(
        id=made.id, camera_id=made.camera_id, source_type=made.source_type, capture_mode=made.capture_mode,
        status=made.status, rtsp_url=made.rtsp_url, params=made.params, meta=made.meta,
    )  # fmt: skip


def new_capture(
    body: RTSPIngestionRequest,
    camera: CameraConfiguration | None,
    secrets: SecretBox,
    *,
    default_fps: float,
    max_staleness: float = 0,
) -> NewCapture:
    """A pending capture: what the client asks for, completed from the camera's registration.

    `default_fps`: where neither says how many. Raises CameraDisabled, InvalidRequest, SecretUnreadable.
    """
    if camera is not None and not camera.enabled:
        raise CameraDisabled
    url = body.rtsp_url or (secrets.open(camera.rtsp_url) if camera else None)
    if url is None:
        raise InvalidRequest.of("rtsp_url", "is required: this camera is not registered", code="missing")
    fps = body.fps or (camera.default_fps if camera else None) or default_fps
    single = body.capture_mode is CaptureMode.SINGLE_FRAME
    encoding = encoding_for(body, camera)
    params = CaptureParams(
        mode=body.capture_mode,
        fps=1.0 if single else fps,
        duration=None if single else body.capture_duration,
        sampling=Sampling.KEYFRAME if encoding is Encoding.SOURCE else body.sampling,
        max_frames=None if single else body.max_frames,
        jpeg_quality=body.jpeg_quality,
        transport=body.transport or (Transport(camera.transport) if camera else Transport.TCP),
        frame_timestamp=body.frame_timestamp,
        max_staleness=max_staleness,
        reader=camera.reader if camera else None,
        encoding=encoding,
        pick=PickParams(body.pick.of, body.pick.within_s) if body.pick else None,
        **event_params(body),
    )
    return NewCapture(
        new_id(), body.camera_id, body.capture_mode.value, secrets.seal_url(url), params.to_json(), body.meta.to_json()
    )  # fmt: skip


def with_known_url(
    body: RTSPIngestionRequest, camera: CameraConfiguration | None, secrets: SecretBox, who: Principal
) -> RTSPIngestionRequest:
    """The body; a registered camera's masked URL stands for its own. Raises Forbidden for any other URL of a registered
    camera from a caller who may not change cameras."""
    if camera is None or body.rtsp_url is None:
        return body
    if body.rtsp_url == secrets.masked(camera.rtsp_url):
        return body.model_copy(update={"rtsp_url": None})
    if not who.has(Scope.CAMERAS_WRITE):
        raise Forbidden("Another URL for a registered camera needs cameras:write.", details={"scope": "cameras:write"})
    return body


def encoding_for(body: RTSPIngestionRequest, camera: CameraConfiguration | None) -> Encoding:
    """What the request says, else the camera: unless the request asks for what only a JPEG can be."""
    if body.encoding is not None:
        return body.encoding
    if camera is None or body.only_jpeg is not None:
        return Encoding.JPEG
    return Encoding(camera.encoding)


def event_params(body: RTSPIngestionRequest) -> dict[str, Any]:
    """What an event_driven request says of its events; what it does not say has its default."""
    found: dict[str, Any] = {"motion": MotionParams(**body.motion.model_dump(exclude_none=True))} if body.motion else {}
    rolls = {"pre_roll": body.pre_roll, "post_roll": body.post_roll}
    return found | {name: float(value) for name, value in rolls.items() if value is not None}
