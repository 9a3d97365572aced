"""The event log."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from models.schemas.base import Output, Timestamp
from models.values import LogEventType


class CloudEvent(Output):
    """CloudEvents 1.0, JSON format, structured."""

    specversion: Literal["1.0"]
    id: str = Field(description="Also the cursor after this event.")
    source: str
    type: LogEventType
    subject: UUID = Field(description="The frame's or the request's id.")
    time: Timestamp
    datacontenttype: Literal["application/json"]
    cameraid: str
    data: dict[str, Any] = Field(
        description="frame.stored: FrameInfo without storage_url and url_expires_at. frame.deleted: which frame it was. "
        "request.*: the request's state, error and ledger. camera.gap_*: request_id, gap_id, from, to, reason."
    )


class CloudEventPage(Output):
    items: list[CloudEvent]
    next_cursor: str = Field(description="Where to go on, always given; past what the filters left out, too.")
