"""Errors: application/problem+json (RFC 9457)."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import ConfigDict, Field

from models.schemas.base import Output, Timestamp
from models.schemas.bursts import BurstResult
from models.schemas.requests import RejectedFile


class ProblemField(Output):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)

    in_: Literal["body", "query", "path", "header", "form"] = Field(alias="in")
    pointer: str
    name: str
    code: str
    message: str


class Problem(Output):
    """application/problem+json (RFC 9457)."""

    type: str = Field(description="about:blank")
    title: str
    status: int
    code: str
    detail: str
    instance: str
    trace_id: str
    retryable: bool
    errors: list[ProblemField]
    # Of some codes only; absent otherwise.
    rejected: list[RejectedFile] = Field(default_factory=list, description="Of an upload of which no file was stored.")
    missing_parts: list[int] = Field(default_factory=list, description="upload_incomplete: the parts' numbers.")
    oldest_cursor: str = Field("", description="cursor_expired: the cursor before the oldest event that is kept.")
    group_id: UUID | None = Field(None, description="Of a burst without a frame: its id, and what was asked for.")
    at: Timestamp | None = None
    tolerance_ms: float | None = None
    results: list[BurstResult] = Field(default_factory=list)
