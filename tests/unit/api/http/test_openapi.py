"""/openapi.json and its pages: every body and every documented error has an example that fits."""

from __future__ import annotations

from typing import Any, get_args

import jsonschema
import pytest
from pydantic import BaseModel

from api.http import examples
from api.http.errors import TABLE
from api.http.openapi import _subclasses, schema_of
from models.schemas import (
    BurstRequest,
    BurstResponse,
    CameraConfiguration,
    CameraCreate,
    CameraPage,
    CameraPatch,
    CloudEventPage,
    EventPage,
    FrameInfo,
    FramePage,
    HealthCheckResponse,
    IngestionResponse,
    NearestFrame,
    ProbeResponse,
    RequestPage,
    RTSPIngestionRequest,
    SnapshotRequest,
    TriggerAccepted,
    TriggerRequest,
    UploadComplete,
    UploadSessionCreate,
    UploadSessionResponse,
)
from tests.unit.api.support import Api, problem
from tests.unit.api.support import api as api
from utils.exceptions import CaptureCode, IngestionException


def operations(api: Api) -> list[tuple[str, str, dict[str, Any]]]:
    paths = schema_of(api.app)["paths"]
    return [(method, path, operation) for path, item in paths.items() for method, operation in item.items()]


def test_every_code_of_the_hierarchy_has_a_status() -> None:
    assert {kind.code for kind in _subclasses(IngestionException)} <= TABLE.keys()


async def test_operations_are_named_once_and_described(api: Api) -> None:
    found = operations(api)
    ids = [operation["operationId"] for _, _, operation in found]
    assert len(set(ids)) == len(ids)
    assert not [method for method, _, _ in found if method == "head"]
    for _, path, operation in found:
        assert operation["summary"]
        assert operation["tags"]
        assert "422" in operation["responses"], path


async def test_every_error_is_a_problem_with_examples(api: Api) -> None:
    for _, path, operation in operations(api):
        for status, response in operation["responses"].items():
            if status < "400" or (path.startswith("/health") and status == "503"):
                continue
            media = response["content"]["application/problem+json"]
            assert media["schema"] == {"$ref": "#/components/schemas/Problem"}
            assert media["examples"]
            for code, example in media["examples"].items():
                assert example["value"]["code"] == code
                assert str(example["value"]["status"]) == status
                jsonschema.validate(example["value"], {**media["schema"], "components": schema_of(api.app)["components"]})


async def test_bodies_have_schemas_and_examples(api: Api) -> None:
    bodies = {
        operation["operationId"]: operation["requestBody"]
        for _, _, operation in operations(api)
        if "requestBody" in operation
    }
    cameras = {"create_camera", "update_camera", "probe_url", "take_snapshot"}
    assert {"submit_capture", "upload_images", "trigger_event", "take_burst"} | cameras <= bodies.keys()
    schemas = schema_of(api.app)["components"]["schemas"]
    for example in schemas["RTSPIngestionRequest"]["examples"]:
        RTSPIngestionRequest.model_validate(example)
    form = bodies["upload_images"]["content"]["multipart/form-data"]
    assert form["schema"]["properties"]["files"]["items"] == {"type": "string", "format": "binary"}
    assert form["example"]


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (FrameInfo, examples.FRAME), (NearestFrame, examples.NEAREST), (IngestionResponse, examples.FINAL),
        (IngestionResponse, examples.ACCEPTED), (IngestionResponse, examples.UPLOADED), (RequestPage, examples.REQUEST_PAGE),
        (FramePage, examples.FRAME_PAGE), (HealthCheckResponse, examples.HEALTH), (CameraCreate, examples.CAMERA_NEW),
        (CameraPatch, examples.CAMERA_PATCH), (CameraConfiguration, examples.CAMERA), (CameraPage, examples.CAMERA_PAGE),
        (ProbeResponse, examples.PROBE), (SnapshotRequest, examples.SNAPSHOT), (TriggerRequest, examples.TRIGGER),
        (TriggerAccepted, examples.TRIGGERED), (EventPage, examples.EVENT_PAGE),
        (UploadSessionCreate, examples.SESSION_NEW), (UploadSessionResponse, examples.SESSION),
        (UploadSessionResponse, examples.SESSION_PARTS), (UploadComplete, examples.SESSION_COMPLETE),
        (CloudEventPage, examples.CLOUD_EVENT_PAGE), (BurstRequest, examples.BURST_NEW), (BurstResponse, examples.BURST),
    ],
)  # fmt: skip
def test_response_examples_fit_their_models(model: type[BaseModel], example: dict[str, Any]) -> None:
    model.model_validate(example)


async def test_a_patch_may_come_as_merge_patch(api: Api) -> None:
    content = schema_of(api.app)["paths"]["/api/v1/cameras/{camera_id}"]["patch"]["requestBody"]["content"]
    assert content.keys() == {"application/json", "application/merge-patch+json"}
    for media in content.values():
        assert media["schema"] == {"$ref": "#/components/schemas/CameraPatch"}
        assert media["example"]


async def test_a_snapshot_documents_every_capture_error(api: Api) -> None:
    responses = schema_of(api.app)["paths"]["/api/v1/cameras/{camera_id}/snapshot"]["post"]["responses"]
    media = [content for answer in responses.values() for content in answer["content"].values()]
    told = {code for content in media for code in content.get("examples", {})}
    assert set(get_args(CaptureCode)) - {"timestamp_out_of_range"} <= told
    assert responses["504"]["content"]["application/problem+json"]["examples"].keys() == {"connect_timeout", "read_timeout"}


async def test_the_pages_work_without_the_internet(api: Api) -> None:
    for page in ("/docs", "/redoc"):
        text = (await api("GET", page)).text
        assert "/openapi.json" in text
        assert "https://" not in text
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js", "favicon.png"):
        answer = await api("GET", f"/docs/assets/{name}")
        assert answer.status_code == 200
        assert len(answer.content) > 1000
    problem(await api("GET", "/docs/assets/..%2f..%2fmain.py"), 404, "route_not_found")
    assert (await api("GET", "/openapi.json")).json()["info"]["title"] == "TrackShift Ingestion"
