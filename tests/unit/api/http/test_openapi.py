"""/openapi.json and its pages: every body and every documented error has an example that fits."""

from __future__ import annotations

import re
from typing import Any, get_args

import jsonschema
import pytest
from pydantic import BaseModel

from api.http import examples
from api.http.errors import _EXTRA_MEMBERS, TABLE
from api.http.openapi import _subclasses, schema_of
from models.entities import IngestionRequest, dropped_column
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
from models.schemas.cameras import RESERVED_CAMERA_IDS
from models.values import DropReason
from services.reads.serializers.requests import message_of
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


async def test_links_lead_from_what_makes_an_id_to_what_takes_it(api: Api) -> None:
    schema = schema_of(api.app)
    found = {operation["operationId"]: operation for _, _, operation in operations(api)}
    taken = set()
    for operation in found.values():
        for answer in operation["responses"].values():
            for name, link in answer.get("links", {}).items():
                target = found[link["operationId"]]
                taken.add(name)
                for parameter, expression in link["parameters"].items():
                    place, _, wanted = parameter.partition(".")
                    assert (place, wanted) in {(item["in"], item["name"]) for item in target["parameters"]}, name
                    example = answer["content"]["application/json"]["example"]
                    assert resolve(example, expression.removeprefix("$response.body#")), (operation["operationId"], name)
    with_path_ids = {op["operationId"] for _, path, op in operations(api) if "{" in path}
    assert with_path_ids <= taken, "an operation that takes an id is not led to"
    assert schema["openapi"].startswith("3.1")


def resolve(document: Any, pointer: str) -> Any:
    for part in pointer.split("/")[1:]:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


async def test_parameters_say_their_bounds(api: Api) -> None:
    """In JSON Schema's words: `minimum`, not pydantic's `ge`."""
    known = {"ge", "gt", "le", "lt", "min_length", "max_length"}
    for _, path, operation in operations(api):
        for parameter in operation.get("parameters", []):
            assert not known & parameter["schema"].keys(), (path, parameter["name"])
            if parameter["name"] == "limit":
                assert (parameter["schema"]["minimum"], parameter["schema"]["maximum"] >= 200) == (1, True)


async def test_headers_and_cursors_say_their_form(api: Api) -> None:
    found = {operation["operationId"]: operation for _, _, operation in operations(api)}
    key = next(item for item in found["submit_capture"]["parameters"] if item["name"] == "Idempotency-Key")
    right, wrong = ("k", '"k"', "x" * 255), ("a,b", "", "é", '"a"b"', "x" * 256)
    for text, good in [*((text, True) for text in right), *((text, False) for text in wrong)]:
        assert bool(re.search(key["schema"]["pattern"], text)) is good, text
    after = next(item for item in found["read_events"]["parameters"] if item["name"] == "after")
    for text, good in (("latest", True), (examples.CLOUD_EVENT["id"], True), ("x", False), ("latest ", False)):
        assert bool(re.search(after["schema"]["pattern"], text)) is good, text


@pytest.mark.parametrize("model", [CameraCreate, SnapshotRequest, BurstRequest, UploadSessionCreate])
def test_schemas_say_where_null_means_absent(model: type[BaseModel]) -> None:
    schema = model.model_json_schema()
    for name, value in schema["properties"].items():
        nullable = {"type": "null"} in value.get("anyOf", ())
        assert nullable is (name not in schema.get("required", ())), name


async def test_a_problem_has_the_members_that_some_codes_add(api: Api) -> None:
    schema = schema_of(api.app)["components"]["schemas"]["Problem"]
    assert set(_EXTRA_MEMBERS) <= schema["properties"].keys()
    assert not set(_EXTRA_MEMBERS) & set(schema["required"])
    always = {"type", "title", "status", "code", "detail", "instance", "trace_id", "retryable", "errors"}
    assert set(schema["required"]) == always
    assert schema_of(api.app)["components"]["schemas"]["BurstRequest"]["properties"]["camera_ids"]["uniqueItems"] is True


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE", "PUT"])
async def test_a_path_of_its_own_is_no_id(api: Api, method: str) -> None:
    """/cameras/probe is not the camera `probe`: Allow names what this path takes, and no camera has that name."""
    answer = await api(method, "/api/v1/cameras/probe")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    answer = await api("DELETE", "/api/v1/frames/nearest")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_no_camera_has_the_name_of_a_path(api: Api) -> None:
    prefix = "/api/v1/cameras/"
    paths = {path.removeprefix(prefix) for _, path, _ in operations(api) if path.startswith(prefix)}
    assert {path for path in paths if "{" not in path} == set(RESERVED_CAMERA_IDS)
    body = {"camera_id": "probe", "rtsp_url": "rtsp://127.0.0.1/x"}
    found = problem(await api("POST", "/api/v1/cameras", json=body), 422, "invalid_request")
    assert found["detail"] == "camera_id: is reserved"


@pytest.mark.parametrize("example", [examples.SUMMARY, examples.ACCEPTED, examples.UPLOADED])
def test_messages_of_examples_are_the_service_s(example: dict[str, Any]) -> None:
    progress = example["progress"]
    row = IngestionRequest(
        status=example["status"], source_type=example["source_type"], stored=progress["stored"],
        expected=progress["expected"], in_flight=progress["in_flight"], idle_slots=[], grid_start=example["grid_start"],
        **{dropped_column(reason): [] for reason in DropReason},
    )  # fmt: skip
    assert message_of(row, row.due, row.dropped()) == example["message"]


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
