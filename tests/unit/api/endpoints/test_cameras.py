"""/api/v1/cameras over HTTP: statuses, headers, strictness, what reaches the service."""

from __future__ import annotations

import asyncio
import json
from typing import Any, get_args

import pytest

from api.http.errors import TABLE
from tests.unit.api.support import KNOWN, Api, problem
from tests.unit.api.support import api as api
from utils.exceptions import (
    AddressNotAllowed,
    CameraDisabled,
    CameraExists,
    CameraFailed,
    CameraInUse,
    CaptureCode,
    SecretUnreadable,
)

CAMERAS = "/api/v1/cameras"
GOOD: dict[str, Any] = {"camera_id": "pit-1", "rtsp_url": "rtsp://user:pw@127.0.0.1/x"}
FULL: dict[str, Any] = {
    **GOOD, "name": "n", "description": "d", "transport": "udp", "location": "l", "camera_angle": "a",
    "calibration": {"k": [1, 2]}, "default_fps": 0.5, "enabled": False, "keep_open": True, "reader": "native",
    "retention_days": 30.5, "exif_timezone": "Europe/Berlin", "site": "north", "encoding": "source",
    "meta": {"m": 1},
}  # fmt: skip
MERGE = {"Content-Type": "application/merge-patch+json"}


async def test_create_is_201_with_a_location(api: Api) -> None:
    answer = await api("POST", CAMERAS, json=FULL)
    assert (answer.status_code, answer.headers["location"]) == (201, f"{CAMERAS}/pit-1")
    created = api.cameras.created[0]
    assert created.model_dump(mode="json", exclude={"rtsp_ref"}) == FULL
    assert answer.json()["stream"]["state"] == "live"


async def test_null_means_absent_when_creating(api: Api) -> None:
    absent = {name: None for name in FULL if name not in GOOD}
    assert (await api("POST", CAMERAS, json={**GOOD, **absent})).status_code == 201
    created = api.cameras.created[0]
    assert (created.transport, created.enabled, created.keep_open, created.meta) == ("tcp", True, False, {})
    assert created.default_fps is None


@pytest.mark.parametrize(
    "change",
    [
        {"camera_id": ".."}, {"camera_id": "a b"}, {"camera_id": "x" * 101}, {"camera_id": None}, {"rtsp_url": None},
        {"rtsp_url": "http://127.0.0.1/x"}, {"rtsp_url": "rtsp://h/" + "x" * 2048}, {"transport": "http"}, {"name": 5},
        {"name": "x" * 201}, {"default_fps": 0}, {"default_fps": 31}, {"default_fps": "1"}, {"default_fps": True},
        {"enabled": 1}, {"enabled": "true"}, {"keep_open": 0}, {"reader": "gstreamer"}, {"calibration": []},
        {"calibration": "x"}, {"meta": {"x": "y" * 17_000}}, {"meta": [1]}, {"stream": None}, {"created_at": None},
        {"updated_at": "2026-05-04T13:30:00Z"}, {"colour": "red"},
    ],
)  # fmt: skip
async def test_create_is_strict(api: Api, change: dict[str, Any]) -> None:
    found = problem(await api("POST", CAMERAS, json={**GOOD, **change}), 422, "invalid_request")
    assert [error["name"] for error in found["errors"]] == list(change)
    assert not api.cameras.created


async def test_a_reference_stands_for_the_url(api: Api) -> None:
    assert (await api("POST", CAMERAS, json={"camera_id": "pit-1", "rtsp_ref": "ref1.x"})).status_code == 201
    assert (api.cameras.created[0].rtsp_url, api.cameras.created[0].rtsp_ref) == (None, "ref1.x")
    for body in ({**GOOD, "rtsp_ref": "ref1.x"}, {"camera_id": "pit-1"}, {"camera_id": "pit-1", "rtsp_url": None}):
        found = problem(await api("POST", CAMERAS, json=body), 422, "invalid_request")
        assert [error["name"] for error in found["errors"]] == ["rtsp_url"]


async def test_a_body_that_is_missing_or_no_object(api: Api) -> None:
    problem(await api("POST", CAMERAS), 422, "invalid_request")
    problem(await api("POST", CAMERAS, json=[GOOD]), 422, "invalid_request")
    twice = b'{"camera_id":"a","camera_id":"b"}'
    problem(await api("POST", CAMERAS, content=twice, headers=MERGE), 400, "malformed_request")
    problem(await api("POST", CAMERAS, content=b"{", headers={"Content-Type": "text/plain"}), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(CameraExists(), 409, "camera_exists"), (AddressNotAllowed(), 403, "address_not_allowed")],
)
async def test_create_refused(api: Api, error: Exception, status: int, code: str) -> None:
    api.cameras.error = error
    problem(await api("POST", CAMERAS, json=GOOD), status, code)


async def test_get_and_head(api: Api) -> None:
    answer = await api("GET", f"{CAMERAS}/x")
    assert answer.status_code == 200
    assert answer.json()["rtsp_url"] == "rtsp://192.168.1.20:554/stream1"
    head = await api("HEAD", f"{CAMERAS}/x")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", answer.headers["content-length"])
    for method in ("GET", "DELETE"):
        problem(await api(method, f"{CAMERAS}/nope"), 404, "camera_not_found")
    problem(await api("PATCH", f"{CAMERAS}/nope", json={}), 404, "camera_not_found")
    problem(await api("POST", f"{CAMERAS}/nope/probe"), 404, "camera_not_found")
    problem(await api("POST", f"{CAMERAS}/nope/snapshot"), 404, "camera_not_found")


@pytest.mark.parametrize("camera_id", ["..%2e", "a%20b", "x" * 101, "%00", "ä"])
async def test_malformed_ids_are_422(api: Api, camera_id: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/probe"), ("POST", "/snapshot")):
        found = problem(await api(method, f"{CAMERAS}/{camera_id}{path}"), 422, "invalid_request")
        assert found["errors"][0]["in"] == "path"


async def test_list(api: Api) -> None:
    answer = await api("GET", f"{CAMERAS}?limit=7&cursor=abc")
    assert answer.json()["next_cursor"] is None
    assert api.cameras.pages == [(7, "abc")]
    await api("GET", CAMERAS)
    assert api.cameras.pages[1] == (50, None)
    for query in ("limit=0", "limit=201", "limit=x", "enabled=true"):
        problem(await api("GET", f"{CAMERAS}?{query}"), 422, "invalid_request")


@pytest.mark.parametrize("kind", ["application/merge-patch+json", "application/json", "application/json; charset=utf-8"])
async def test_patch_takes_both_types_and_tells_null_from_absent(api: Api, kind: str) -> None:
    body = {"name": None, "default_fps": 2, "meta": {"a": None, "b": 1}}
    answer = await api("PATCH", f"{CAMERAS}/x", content=json.dumps(body), headers={"Content-Type": kind})
    assert answer.status_code == 200
    patch = api.cameras.patches[0]
    assert patch.model_dump(exclude_unset=True) == body


@pytest.mark.parametrize("kind", ["application/json-patch+json", "application/vnd.x+json", "text/plain"])
async def test_patch_takes_no_other_type(api: Api, kind: str) -> None:
    answer = await api("PATCH", f"{CAMERAS}/x", content=b'{"name": "n"}', headers={"Content-Type": kind})
    problem(answer, 415, "unsupported_media_type")
    assert not api.cameras.patches


@pytest.mark.parametrize(
    "change",
    [{"enabled": "yes"}, {"default_fps": 0}, {"stream": {}}, {"created_at": None}, {"reader": "x"}, {"meta": []}, {"x": 1}],
)
async def test_patch_is_strict(api: Api, change: dict[str, Any]) -> None:
    problem(await api("PATCH", f"{CAMERAS}/x", json=change), 422, "invalid_request")
    assert not api.cameras.patches


async def test_delete(api: Api) -> None:
    answer = await api("DELETE", f"{CAMERAS}/x")
    assert (answer.status_code, answer.content) == (204, b"")
    api.cameras.error = CameraInUse()
    problem(await api("DELETE", f"{CAMERAS}/x"), 409, "camera_in_use")


async def test_probe(api: Api) -> None:
    answer = await api("POST", f"{CAMERAS}/probe", json={"rtsp_url": "rtsp://127.0.0.1/x", "transport": "udp"})
    assert answer.status_code == 200
    assert answer.json()["clock"] == {"source": "receipt", "offset_ms": None}
    assert (await api("POST", f"{CAMERAS}/x/probe")).status_code == 200
    assert api.cameras.probed[1] == "x"
    for body in ({}, {"rtsp_url": "x"}, {"rtsp_url": "rtsp://h/x", "camera_id": "a"}):
        problem(await api("POST", f"{CAMERAS}/probe", json=body), 422, "invalid_request")


async def test_a_probe_ends_when_the_service_stops(api: Api) -> None:
    api.cameras.probe_seconds = 30
    task = asyncio.create_task(api("POST", f"{CAMERAS}/probe", json={"rtsp_url": "rtsp://127.0.0.1/x"}))
    while not api.cameras.probed:
        await asyncio.sleep(0.01)
    api.state.stopping.set()
    problem(await task, 503, "shutting_down")
    assert api.cameras.cancelled


async def test_a_probe_ends_when_the_client_goes_away(api: Api) -> None:
    api.cameras.probe_seconds = 30
    body = json.dumps({"rtsp_url": "rtsp://127.0.0.1/x"}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        while not api.cameras.probed:
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None:
        pass

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": f"{CAMERAS}/probe",
        "raw_path": f"{CAMERAS}/probe".encode(), "query_string": b"", "root_path": "", "scheme": "http", "client": ("t", 1),
        "server": ("t", 80),
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
    }  # fmt: skip
    async with asyncio.timeout(5):
        await api.app(scope, receive, send)
    assert api.cameras.cancelled


async def test_snapshot_is_201_with_the_frame(api: Api) -> None:
    for body in (None, b"", b"{}", b"null", b'{"meta": null, "jpeg_quality": null, "max_staleness": null}'):
        headers = {"Content-Type": "application/json"} if body else {}
        answer = await api("POST", f"{CAMERAS}/x/snapshot", content=body, headers=headers)
        assert (answer.status_code, answer.headers["location"]) == (201, f"/api/v1/frames/{KNOWN}")
        assert answer.json()["frame_id"] == str(KNOWN)
        wanted = api.cameras.snapshots[-1]
        assert (wanted.jpeg_quality, wanted.max_staleness, wanted.meta.to_json()) == (90, 0, {})
    await api("POST", f"{CAMERAS}/x/snapshot", json={"meta": {"session": "FP1"}, "jpeg_quality": 50, "max_staleness": 1.5})
    wanted = api.cameras.snapshots[-1]
    assert (wanted.jpeg_quality, wanted.max_staleness, wanted.meta.to_json()) == (50, 1.5, {"session": "FP1"})


@pytest.mark.parametrize(
    "body", [{"jpeg_quality": 49}, {"jpeg_quality": "90"}, {"max_staleness": -1}, {"meta": {"x": 1}}, {"fps": 1}, []]
)
async def test_snapshot_is_strict(api: Api, body: Any) -> None:
    problem(await api("POST", f"{CAMERAS}/x/snapshot", json=body), 422, "invalid_request")
    assert not api.cameras.snapshots


@pytest.mark.parametrize("code", [code for code in get_args(CaptureCode) if code != "timestamp_out_of_range"])
async def test_a_snapshots_errors_have_the_captures_code(api: Api, code: Any) -> None:
    api.cameras.error = CameraFailed(code, "It failed.", retryable=code == "camera_busy")
    status = {"connect_timeout": 504, "read_timeout": 504, "address_not_allowed": 403}.get(code, 502)
    found = problem(await api("POST", f"{CAMERAS}/x/snapshot"), status, code)
    assert (found["detail"], found["retryable"]) == ("It failed.", code == "camera_busy")


def test_every_capture_error_has_a_status() -> None:
    assert set(get_args(CaptureCode)) <= TABLE.keys()


async def test_other_refusals(api: Api) -> None:
    api.cameras.error = CameraDisabled()
    problem(await api("POST", f"{CAMERAS}/x/snapshot"), 409, "camera_disabled")


async def test_a_missing_key_is_told_to_the_operator(api: Api) -> None:
    api.cameras.error = SecretUnreadable("… key 12345678, which SECRETS__KEYS does not hold.")
    found = problem(await api("POST", f"{CAMERAS}/x/probe"), 500, "internal_error")
    assert "SECRETS__KEYS" in found["detail"]
