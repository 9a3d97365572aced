"""The processes of a deployment."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from models.schemas.base import Output, Timestamp


class WorkerInfo(Output):
    worker_id: UUID
    role: Literal["all", "api", "worker"]
    site: str = Field(description="Whose cameras it captures; of role api: nobody's.")
    host: str
    version: str
    schema_revision: str | None = Field(description="The newest revision of the schema that its code knows; null: older.")
    started_at: Timestamp
    seen_at: Timestamp = Field(description="When it last wrote this; it is no longer listed 8 s later.")
    captures: int = Field(description="Captures that it runs.")
    streams: int = Field(description="Camera connections that it has.")
    draining: bool = Field(description="Whether it hands over what it runs, and takes nothing more.")


class WorkerList(Output):
    items: list[WorkerInfo]
