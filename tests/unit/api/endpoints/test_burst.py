"""/api/v1/ingest/burst over HTTP: statuses, headers, strictness."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api.http import examples
from models.schemas import BurstRequest
from services.cameras.burst import BurstService
from tests.unit.api.support import KNOWN, Api, problem
from tests.unit.api.support import api as api
from utils.exceptions import CameraDisabled, CameraFailed, InvalidRequest, Overloaded, TimestampOutOfRange

BURST = "/api/v1/ingest/burst"
GOOD: dict[str, Any] = {"camera_ids": ["a", "b"]}


async def test_201_with_a_location(api: Api) -> None:
    answer = await api("POST", BURST, json={**GOOD, "at": None, "tolerance_ms": None, "meta": {"session": "FP1"}})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"{BURST}/{examples.BURST['group_id']}"
    assert answer.json() == examples.BURST
    (taken,) = api.bursts.taken
    assert (taken.camera_ids, taken.at, taken.tolerance_ms, taken.meta.session) == (["a", "b"], None, 100, "FP1")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"camera_ids": ["a"]}, "/camera_ids"), ({"camera_ids": [f"c{n}" for n in range(33)]}, "/camera_ids"),
        ({"camera_ids": ["a", "a"]}, "/camera_ids"), ({"camera_ids": ["a", ".."]}, "/camera_ids/1"),
        ({"camera_ids": "a,b"}, "/camera_ids"), ({"camera_ids": None}, "/camera_ids"),
        ({"camera_ids": [1, 2]}, "/camera_ids/0"),
        ({"tolerance_ms": 0}, "/tolerance_ms"), ({"tolerance_ms": 5001}, "/tolerance_ms"),
        ({"tolerance_ms": "100"}, "/tolerance_ms"), ({"at": "2026-05-04T13:30:00"}, "/at"), ({"at": 5}, "/at"),
        ({"meta": {"colour": "red"}}, "/meta/colour"), ({"fps": 1}, "/fps"),
    ],
    ids=range(14),
)  # fmt: skip
async def test_bodies_are_strict(api: Api, change: dict[str, Any], pointer: str) -> None:
    told = problem(await api("POST", BURST, json={**GOOD, **change}), 422, "invalid_request")
    assert told["errors"][0]["pointer"] == pointer, told
    assert api.bursts.taken == []


async def test_32_cameras_are_a_burst(api: Api) -> None:
    assert (await api("POST", BURST, json={"camera_ids": [f"c{n}" for n in range(32)]})).status_code == 201


async def test_errors_have_their_status(api: Api) -> None:
    for error, status in (
        (CameraDisabled(), 409), (TimestampOutOfRange(), 422), (Overloaded(), 503), (InvalidRequest(), 422),
    ):  # fmt: skip
        api.bursts.error = error
        problem(await api("POST", BURST, json=GOOD), status, error.code)


async def test_nothing_stored_is_the_cameras_problem_with_all_results(api: Api) -> None:
    results = [examples.BURST["results"][1]]
    for code, status in (("connection_refused", 502), ("connect_timeout", 504), ("timestamp_out_of_range", 422)):
        api.bursts.error = CameraFailed(code, "No.", retryable=True)  # type: ignore[arg-type]
        api.bursts.error.details.update(results=results, group_id=str(KNOWN))
        told = problem(await api("POST", BURST, json=GOOD), status, code)
        assert (told["results"], told["group_id"]) == (results, str(KNOWN))


async def test_the_burst_of_a_client_that_is_gone_is_given_up(api: Api) -> None:
    api.bursts.seconds = 30
    asked = asyncio.ensure_future(api("POST", BURST, json=GOOD))
    while not api.bursts.taken:
        await asyncio.sleep(0.01)
    api.state.stopping.set()
    problem(await asked, 503, "shutting_down")
    assert api.bursts.cancelled


async def test_get(api: Api) -> None:
    assert (await api("GET", f"{BURST}/{KNOWN}")).json() == examples.BURST
    problem(await api("GET", f"{BURST}/01934f5e-2b7a-7c31-9d5e-6f0a1b2c3d4f"), 404, "request_not_found")
    problem(await api("GET", f"{BURST}/x"), 422, "invalid_request")


async def test_requests_of_a_burst(api: Api) -> None:
    assert (await api("GET", f"/api/v1/ingest/requests?group_id={KNOWN}")).status_code == 200
    assert api.queries.filters[0][0].group_id == KNOWN
    problem(await api("GET", "/api/v1/ingest/requests?group_id=x"), 422, "invalid_request")


def test_the_past_is_what_is_not_to_come() -> None:
    body = BurstRequest.model_validate({**GOOD, "at": "2026-05-04T13:30:00Z"})
    assert BurstService._past(body.at)
    assert not BurstService._past(None)
