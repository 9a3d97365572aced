"""What a client asks for becomes a row: how its pictures are stored, by request and camera."""

from __future__ import annotations

from typing import Any

import pytest

from models.entities import CameraConfiguration
from models.schemas import RTSPIngestionRequest
from models.values import CaptureParams, Encoding, Sampling
from services.admission.captures import capture_row
from utils.secret_box import SecretBox, new_key

BOX = SecretBox([new_key()])
URL = "rtsp://127.0.0.1/x"


@pytest.mark.parametrize(("camera", "asked", "found"), [
    (None, {}, (Encoding.JPEG, Sampling.AUTO)),
    (None, {"encoding": "source"}, (Encoding.SOURCE, Sampling.KEYFRAME)),
    (None, {"encoding": "source", "sampling": "keyframe"}, (Encoding.SOURCE, Sampling.KEYFRAME)),
    ("jpeg", {}, (Encoding.JPEG, Sampling.AUTO)),
    ("source", {}, (Encoding.SOURCE, Sampling.KEYFRAME)),
    ("source", {"encoding": "jpeg"}, (Encoding.JPEG, Sampling.AUTO)),
    ("source", {"sampling": "exact"}, (Encoding.JPEG, Sampling.EXACT)),
    ("source", {"jpeg_quality": 70}, (Encoding.JPEG, Sampling.AUTO)),
    ("source", {"sampling": "exact", "capture_mode": "single_frame"}, (Encoding.SOURCE, Sampling.KEYFRAME)),
])  # fmt: skip
def test_the_request_says_how_pictures_are_stored_else_the_camera(
    camera: str | None, asked: dict[str, Any], found: tuple[Encoding, Sampling]
) -> None:
    body = RTSPIngestionRequest.model_validate({"camera_id": "c", "rtsp_url": URL, "capture_mode": "continuous", **asked})
    registered = None if camera is None else CameraConfiguration(
        camera_id="c", rtsp_url=BOX.seal(URL), transport="tcp", enabled=True, encoding=camera,
    )  # fmt: skip
    row = capture_row(body, registered, BOX, default_fps=1.0)
    params = CaptureParams.from_json(row.params or {})
    assert (params.encoding, params.sampling) == found


def test_rows_of_before_there_were_encodings_are_jpeg() -> None:
    body = RTSPIngestionRequest.model_validate({"camera_id": "c", "rtsp_url": URL})
    params = capture_row(body, None, BOX, default_fps=1.0).params or {}
    del params["encoding"]
    assert CaptureParams.from_json(params).encoding is Encoding.JPEG
