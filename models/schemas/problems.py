"""Errors: application/problem+json (RFC 9457)."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from models.schemas.base import Output


class ProblemField(Output):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, serialize_by_alias=True)

    in_: Literal["body", "query", "path", "header", "form"] = Field(alias="in")
    pointer: str
    name: str
    code: str
    message: str


class Problem(Output):
    """application/problem+json (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    instance: str
    trace_id: str
    retryable: bool
    errors: list[ProblemField] = Field(default_factory=list)
