"""The WebSocket's messages from its clients, and the ticket that opens it."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from models.schemas.base import CameraId, Input, Output, Timestamp
from models.values import LogEventType

MAX_NAMES = 1000  # cameras or requests of one subscription
SubscriptionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", min_length=1, max_length=64)]


class Subscribe(Input):
    op: Literal["subscribe"]
    id: SubscriptionId
    types: list[Annotated[LogEventType, Field(strict=False)]] | None = Field(None, max_length=len(LogEventType))
    camera_ids: list[CameraId] | None = Field(None, max_length=MAX_NAMES)
    request_ids: list[Annotated[UUID, Field(strict=False)]] | None = Field(None, max_length=MAX_NAMES)
    after: str | None = Field(None, max_length=100)
    progress: bool | None = None


class Unsubscribe(Input):
    op: Literal["unsubscribe"]
    id: SubscriptionId


class Ping(Input):
    op: Literal["ping"]


ClientMessage = Annotated[Subscribe | Unsubscribe | Ping, Field(discriminator="op")]


class Ticket(Output):
    """POST /api/v1/ws/tickets."""

    ticket: str = Field(description="Good once, for 30 s: `/api/v1/ws?ticket=…`.")
    expires_at: Timestamp
