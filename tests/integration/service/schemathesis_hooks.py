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
from schemathesis.transport.requests import REQUESTS_TRANSPORT, multipart_serializer

CAMERAS = ["pit-lane-1", "pit-lane-2"]  # registered before the run
_buffer = io.BytesIO()
Image.new("RGB", (16, 16), (90, 120, 60)).save(_buffer, "JPEG")
JPEG = _buffer.getvalue()
# A camera that answers, for CAMERAS; and an address where nothing listens, for all others: ten streams are the limit.
LIVE_URL, DEAD_URL = os.environ["SCHEMATHESIS_LIVE_URL"], "rtsp://127.0.0.1:9/none"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    if not _positive(case):
        return
    name = case.operation.definition.raw.get("operationId")
    if case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = uuid.uuid4().hex  # the same key with another body is 422
    if case.headers and "Prefer" in case.headers:
        case.headers["Prefer"] = "wait=1"
    if case.query:
        case.query.pop("cursor", None)  # only the service makes one
        if "wait" in case.query:
            case.query["wait"] = 0.1  # the rest is only longer
        if "max_age" in case.query:
            case.query["max_age"] = 3600  # in digits: JSON Schema takes 1e-7, too
        if "newest" in case.query:
            case.query.pop("after", None)  # both say where to begin: 422 `not_applicable`
        if name in ("frames_histogram", "camera_losses"):  # at most 2000 buckets
            case.query |= {"from": "2026-05-04T00:00:00Z", "to": "2026-05-05T00:00:00Z", "bucket_s": 3600}
    body = case.body
    if not isinstance(body, dict):
        return
    for field, value in body.items():  # JSON Schema takes 5.0 for an integer, the service does not
        if isinstance(value, float) and value.is_integer():
            body[field] = int(value)
    if isinstance(body.get("pick"), dict):
        body["pick"]["of"] = int(body["pick"]["of"])
    # Moments: only those of the last seconds, or of an open stream's ring, are accepted.
    for moment in ("at", "frame_timestamp"):
        body.pop(moment, None)
    if "rtsp_url" in body or name == "submit_capture":
        body["rtsp_url"] = LIVE_URL if name == "create_camera" and body["camera_id"] in CAMERAS else DEAD_URL
    if body.get("exif_timezone") is not None:
        body["exif_timezone"] = "Europe/Rome"  # a name of the zones that there are: no pattern says it
    if name == "submit_capture" and body.get("capture_mode") != "event_driven":
        for field in ("pre_roll", "post_roll", "motion"):  # of event_driven only: 422 `not_applicable`
            body.pop(field, None)
    if body.get("encoding") == "source":
        for field in ("jpeg_quality", "sampling", "pick"):  # of JPEG pictures: 422 `not_applicable`
            body.pop(field, None)
    if body.get("capture_mode") == "event_driven":
        body.pop("pick", None)
    if name == "open_session":
        body["credential"] = os.environ["SCHEMATHESIS_CREDENTIAL"]
    elif name == "create_api_key":
        body |= {"cameras": None, "expires_at": None}  # patterns, and moments to come
    elif name == "create_camera":
        body["keep_open"] = body["camera_id"] in CAMERAS
        body.pop("rtsp_ref", None)  # only a discovery makes one
        body["rtsp_url"] = LIVE_URL if body["camera_id"] in CAMERAS else DEAD_URL
    elif name == "discover_cameras":
        body.clear()  # an address would be a real one
        body["timeout_s"] = 0.1
    elif name == "update_camera":
        for field in ("camera_id", "rtsp_url", "keep_open"):  # the first cannot change, the others are for create_camera
            body.pop(field, None)
    elif name == "take_burst":
        body["camera_ids"] = CAMERAS
    elif name == "open_upload_session":
        body |= {"filename": "car-44.jpg", "content_type": "image/jpeg", "size_bytes": len(JPEG)}
    elif name == "complete_upload_session":
        body["parts"] = None  # nothing has been sent


@REQUESTS_TRANSPORT.serializer("multipart/form-data")
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
