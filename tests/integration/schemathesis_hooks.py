"""For schemathesis (SCHEMATHESIS_HOOKS): what a valid request needs and a JSON schema cannot say.

Negative cases go out as they were made.
"""

from __future__ import annotations

import io
import json
import os
import uuid
from typing import Any

import schemathesis
from PIL import Image
from schemathesis.transport.requests import multipart_serializer

CAMERAS = ["pit-lane-1", "pit-lane-2"]  # registered before the run
_buffer = io.BytesIO()
Image.new("RGB", (16, 16), (90, 120, 60)).save(_buffer, "JPEG")
JPEG = _buffer.getvalue()
# A camera that answers, and an address where nothing listens: a capture of it fails at once and keeps no stream.
LIVE_URL, DEAD_URL = os.environ["SCHEMATHESIS_LIVE_URL"], "rtsp://127.0.0.1:9/none"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    if not _positive(case):
        return
    name = case.operation.definition.raw.get("operationId")
    if case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = uuid.uuid4().hex  # the same key with another body is 422
    if case.query:
        case.query.pop("cursor", None)  # only the service makes one
    body = case.body
    if not isinstance(body, dict):
        return
    # Moments: only those of the last seconds, or of an open stream's ring, are accepted.
    for moment in ("at", "frame_timestamp"):
        body.pop(moment, None)
    if name == "submit_capture":
        body["rtsp_url"] = DEAD_URL
        if body.get("capture_mode") != "event_driven":  # the others refuse what they would ignore
            for field in ("pre_roll", "post_roll", "motion"):
                body.pop(field, None)
    elif "rtsp_url" in body:
        body["rtsp_url"] = LIVE_URL
    if name == "create_camera":
        body.pop("keep_open", None)  # not ten streams for the rest of the run
    elif name == "update_camera":
        body.pop("camera_id", None)  # cannot change
        body.pop("keep_open", None)
    elif name == "take_burst":
        body["camera_ids"] = CAMERAS
    elif name == "open_upload_session":
        body |= {"filename": "car-44.jpg", "content_type": "image/jpeg", "size_bytes": len(JPEG)}
    elif name == "complete_upload_session":
        body["parts"] = None  # nothing has been sent


@schemathesis.serializer("multipart/form-data")
def multipart(context: Any, value: Any) -> Any:
    """The files of a positive case are pictures with names, and `meta` is JSON."""
    if not _positive(context.case) or not isinstance(value, dict):
        return multipart_serializer(context, value)
    parts: list[tuple[str, Any]] = [
        ("files", (f"car-{n}.jpg", JPEG, "image/jpeg")) for n in range(min(10, len(value["files"])))
    ]
    parts += [(name, (None, value[name])) for name in ("camera_id", "source_type") if name in value]
    if "meta" in value:
        parts.append(("meta", (None, json.dumps(value["meta"]), "application/json")))
    return {"files": parts}


def _positive(case: Any) -> bool:
    return case.meta is not None and bool(case.meta.generation.mode.is_positive)
