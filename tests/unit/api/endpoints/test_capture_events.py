"""POST …/trigger and GET …/events: statuses, headers, strict input."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from api.http import examples
from models.schemas import RTSPIngestionRequest
from models.values import CaptureParams, MotionParams
from services.admission.captures import event_params
from tests.unit.api.support import KNOWN, RTSP, Api, problem
from tests.unit.api.support import api as api
from utils.exceptions import NotRunning, TimestampOutOfRange
from utils.ids import new_id

TRIGGER = f"/api/v1/ingest/requests/{KNOWN}/trigger"
EVENTS = f"/api/v1/ingest/requests/{KNOWN}/events"


async def test_a_trigger_is_accepted_with_and_without_a_body(api: Api) -> None:
    for body, label, at in (
        ({}, None, None), (None, None, None), ({"label": "car 44"}, "car 44", None),
        ({"label": None, "at": None}, None, None),
        ({"at": "2026-05-04T15:30:00.5+02:00"}, None, datetime(2026, 5, 4, 13, 30, 0, 500000, UTC)),
    ):  # fmt: skip
        answer = await api("POST", TRIGGER, json=body) if body is not None else await api("POST", TRIGGER)
        assert answer.status_code == 202, answer.text
        assert answer.json() == {"event_id": str(KNOWN)}
        assert answer.headers["location"] == EVENTS
        sent = api.orchestrator.triggers.pop()
        assert (sent.label, sent.at) == (label, at)


@pytest.mark.parametrize(
    "body",
    [
        {"label": 5}, {"label": ""}, {"label": "x" * 201}, {"at": "2026-05-04T13:30:00"}, {"at": 5}, {"when": "now"},
        [], "now",
    ],
)  # fmt: skip
async def test_a_trigger_is_strict(api: Api, body: Any) -> None:
    problem(await api("POST", TRIGGER, json=body), 422, "invalid_request")
    assert not api.orchestrator.triggers


async def test_what_a_trigger_may_be_refused_with(api: Api) -> None:
    problem(await api("POST", f"/api/v1/ingest/requests/{new_id()}/trigger"), 404, "request_not_found")
    problem(await api("POST", TRIGGER, content=b"{"), 415, "unsupported_media_type")
    problem(await api("POST", TRIGGER, content=b"{", headers={"Content-Type": "application/json"}), 400, "malformed_request")
    api.orchestrator.error = NotRunning()
    problem(await api("POST", TRIGGER), 409, "not_running")
    api.orchestrator.error = TimestampOutOfRange.of("at", "is too old", code="timestamp_out_of_range")
    found = problem(await api("POST", TRIGGER, json={"at": "2020-05-04T13:30:00Z"}), 422, "timestamp_out_of_range")
    (error,) = found["errors"]
    assert (error["in"], error["pointer"], error["code"]) == ("body", "/at", "timestamp_out_of_range")
    problem(await api("GET", TRIGGER), 405, "method_not_allowed")


async def test_events_are_listed(api: Api) -> None:
    answer = await api("GET", f"{EVENTS}?limit=7&cursor=abc")
    assert answer.status_code == 200
    assert answer.json() == examples.EVENT_PAGE
    assert api.queries.filters[-1] == (KNOWN, 7, "abc")
    problem(await api("GET", f"/api/v1/ingest/requests/{new_id()}/events"), 404, "request_not_found")
    for query in ("limit=0", "limit=201", "kind=motion", "cursor="):
        problem(await api("GET", f"{EVENTS}?{query}"), 422, "invalid_request")
    assert (await api("HEAD", EVENTS)).status_code == 200


@pytest.mark.parametrize("mode", ["single_frame", "continuous"])
@pytest.mark.parametrize(("field", "value"), [("pre_roll", 1.0), ("post_roll", 1.0), ("motion", {"enabled": False})])
async def test_the_fields_of_events_apply_to_event_driven_only(api: Api, mode: str, field: str, value: Any) -> None:
    body = {**RTSP, "capture_mode": mode, field: value}
    found = problem(await api("POST", "/api/v1/ingest/rtsp", json=body), 422, "not_applicable")
    assert found["errors"][0]["name"] == field
    assert (await api("POST", "/api/v1/ingest/rtsp", json={**body, "capture_mode": "event_driven"})).status_code == 202


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pre_roll", -0.1), ("pre_roll", 30.1), ("post_roll", 31), ("post_roll", "5"), ("motion", {"threshold": 0}),
        ("motion", {"threshold": 256}), ("motion", {"min_area": 0}), ("motion", {"min_area": 1.1}),
        ("motion", {"cooldown": -1}), ("motion", {"enabled": 1}), ("motion", {"speed": 1}), ("motion", True),
        ("frame_timestamp", "2026-05-04T13:30:00Z"),
    ],
)  # fmt: skip
async def test_bounds_of_event_driven(api: Api, field: str, value: Any) -> None:
    code = "not_applicable" if field == "frame_timestamp" else "invalid_request"
    body = {**RTSP, "capture_mode": "event_driven", field: value}
    problem(await api("POST", "/api/v1/ingest/rtsp", json=body), 422, code)


def params_of(**fields: Any) -> dict[str, Any]:
    return event_params(RTSPIngestionRequest.model_validate({**RTSP, "capture_mode": "event_driven", **fields}))


def test_what_is_not_said_has_its_default_and_null_is_absent() -> None:
    assert params_of() == params_of(pre_roll=None, motion=None) == {}
    assert params_of(motion={"threshold": None, "min_area": 0.1}) == {"motion": MotionParams(min_area=0.1)}
    assert params_of(pre_roll=0, post_roll=30, motion={"enabled": False}) == {
        "pre_roll": 0.0, "post_roll": 30.0, "motion": MotionParams(enabled=False),
    }  # fmt: skip


def test_parameters_survive_the_row_and_old_rows_are_read() -> None:
    old = {
        "mode": "continuous", "fps": 2.0, "duration": 5, "sampling": "auto", "max_frames": None, "jpeg_quality": 90,
        "transport": "tcp", "frame_timestamp": None,
    }  # fmt: skip
    read = CaptureParams.from_json(old)
    assert (read.pre_roll, read.post_roll, read.motion) == (2.0, 5.0, MotionParams())
    changed = CaptureParams.from_json(old | {"pre_roll": 0.0, "post_roll": 9.0, "motion": {"enabled": False, "cooldown": 3}})
    assert CaptureParams.from_json(changed.to_json()) == changed
    assert changed.motion == MotionParams(enabled=False, cooldown=3)
