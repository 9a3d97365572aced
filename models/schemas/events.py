"""The event log."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from models.schemas.base import Output, Timestamp
from models.values import LogEventType


class CloudEvent(Output):
    """CloudEvents 1.0, JSON format, structured."""

    specversion: Literal["1.0"]
    id: str = Field(description="Also the cursor after this event.")
    source: str
    type: LogEventType
    subject: str = Field(description="The id of the frame, request or pair, or of camera.quality_changed the camera's.")
    time: Timestamp
    datacontenttype: Literal["application/json"]
    cameraid: str
    data: dict[str, Any] = Field(
        description="frame.stored: FrameInfo without storage_url and url_expires_at. frame.deleted: which frame it was. "
        "request.*: the request's state, error and ledger. camera.gap_*: request_id, gap_id, from, to, reason. "
        "camera.quality_changed: verdict, reasons, frames, since."
    )


class CloudEventPage(Output):
    items: list[CloudEvent]
    next_cursor: str = Field(description="Where to go on, always given; past what the filters left out, too.")
