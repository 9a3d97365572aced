"""Events of the log as CloudEvents 1.0, JSON format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from cloudevents.core.v1.event import CloudEvent

SOURCE = "/trackshift/ingestion"  # the same for all instances: they write one log


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event: its id, which is the cursor after it, its type, the whole as CloudEvents JSON, and what it is about."""

    id: str
    type: str
    body: bytes
    camera_id: str | None = None
    request_id: str | None = None
    other_camera: str | None = None  # of a pair's after: the event is for who sees both


def to_cloud_event(log_id: UUID, seq: int, row: str) -> LogEvent:
    """An event's row as CloudEvents JSON. Raises the library's CloudEventValidationError for one that is none."""
    kept: dict[str, Any] = json.loads(row)
    attributes: dict[str, Any] = {
        "specversion": "1.0", "id": f"{log_id}.{seq}", "source": SOURCE, "type": kept["type"],
        "subject": kept["subject"], "time": datetime.fromisoformat(kept["time"]), "datacontenttype": "application/json",
        "cameraid": kept["camera_id"],
    }  # fmt: skip
    event = CloudEvent(attributes, kept["data"])
    # Its own JSON format leaves out the six digits of a time that has none.
    whole = {**event.get_attributes(), "time": kept["time"], "data": event.get_data()}
    body = json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()
    data = kept["data"]
    other = data["after"]["camera_id"] if kept["type"].startswith("pair.") else None
    return LogEvent(attributes["id"], event.get_type(), body, kept["camera_id"], data.get("request_id"), other)
