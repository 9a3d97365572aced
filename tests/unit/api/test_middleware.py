"""Request ids, metrics, CORS, HEAD, 404 and 405, overload, stopping, unforeseen errors, Prefer."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from models.values import IngestionStatus
from tests.unit.api.support import KNOWN, RTSP, Api, problem
from tests.unit.api.support import api as api
from utils.exceptions import DatabaseUnavailable, IngestionException, ShuttingDown, TooManyPending
from utils.ids import new_id
from utils.metrics import REGISTRY

RTSP_PATH = "/api/v1/ingest/rtsp"
STATUS = f"/api/v1/ingest/status/{KNOWN}"


def count(**labels: str) -> float:
    return REGISTRY.get_sample_value("ingestion_requests_total", labels) or 0


async def test_the_clients_request_id_is_kept_when_sane(api: Api) -> None:
    assert (await api("GET", STATUS, headers={"X-Request-ID": "a.B_c-1"})).headers["x-request-id"] == "a.B_c-1"
    for bad in ("a b", "x" * 129, "é".encode(), "a\\u000a", ""):
        answer = await api("GET", STATUS, headers={"X-Request-ID": bad})
        assert len(answer.headers["x-request-id"]) == 36
    problem(await api("GET", "/nope", headers={"X-Request-ID": "mine"}), 404, "route_not_found")


async def test_every_answer_is_nosniff_and_api_answers_are_not_stored(api: Api) -> None:
    for path in (STATUS, "/health", "/nope", "/docs"):
        assert (await api("GET", path)).headers["x-content-type-options"] == "nosniff"
    assert (await api("GET", STATUS)).headers["cache-control"] == "no-store"


async def test_404_and_405(api: Api) -> None:
    problem(await api("GET", "/api/v1/ingest/"), 404, "route_not_found")
    problem(await api("GET", f"{STATUS}/"), 404, "route_not_found")
    for method, path, allowed in (
        ("PUT", f"/api/v1/frames/{KNOWN}", "DELETE, GET, HEAD"),
        ("GET", RTSP_PATH, "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("PUT", "/api/v1/cameras/x", "DELETE, GET, HEAD, PATCH"),
    ):
        answer = await api(method, path)
        problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allowed


async def test_metrics_are_labelled_by_route_template(api: Api) -> None:
    template = {"endpoint": "/api/v1/ingest/status/{request_id}", "method": "GET"}
    before = [count(**template, status="200"), count(**template, status="404"), count(**template, status="422")]
    await api("GET", STATUS)
    await api("GET", f"/api/v1/ingest/status/{new_id()}")
    await api("GET", "/api/v1/ingest/status/x")
    assert [count(**template, status=s) for s in ("200", "404", "422")] == [n + 1 for n in before]
    unmatched, other = count(endpoint="unmatched", method="GET", status="404"), count(
        endpoint="/health", method="OTHER", status="405"
    )  # fmt: skip
    await api("GET", "/hidden/path/of/client")
    await api("BREW", "/health")
    assert count(endpoint="unmatched", method="GET", status="404") == unmatched + 1
    assert count(endpoint="/health", method="OTHER", status="405") == other + 1
    head = {"endpoint": "/api/v1/frames/{frame_id}/content", "method": "HEAD", "status": "200"}
    before_head = count(**head)
    await api("HEAD", f"/api/v1/frames/{KNOWN}/content")
    assert count(**head) == before_head + 1
    text = (await api("GET", "/metrics")).text
    assert 'ingestion_requests_total{endpoint="/health",method="OTHER",status="405"}' in text
    assert "hidden/path" not in text


async def test_one_access_line_without_the_query(api: Api) -> None:
    with capture_logs() as lines:
        await api("GET", "/api/v1/frames?camera_id=hidden-value")
        await api("GET", "/health")
    access = [line for line in lines if line["event"] == "http_request"]
    assert [line["log_level"] for line in access] == ["info", "debug"]
    first = access[0]
    assert (first["method"], first["route"], first["path"], first["status"]) == (
        "GET",
        "/api/v1/frames",
        "/api/v1/frames",
        200,
    )
    assert first["bytes"] > 0
    assert "hidden-value" not in str(lines)


async def test_head_is_get_without_a_body(api: Api) -> None:
    for path in (
        STATUS,
        "/api/v1/frames",
        "/health",
        "/health/live",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/api/v1/cameras",
    ):
        get, head = await api("GET", path), await api("HEAD", path)
        assert head.status_code == get.status_code
        assert head.content == b""
        assert head.headers["content-type"] == get.headers["content-type"]
        if path != "/metrics":
            assert head.headers["content-length"] == get.headers["content-length"]
    missing = await api("HEAD", f"/api/v1/frames/{new_id()}")
    assert (missing.status_code, missing.content) == (404, b"")
    assert (await api("HEAD", RTSP_PATH)).status_code == 405


async def test_unforeseen_errors_are_generic_problems_logged_once(api: Api) -> None:
    api.queries.error = RuntimeError("rtsp://admin:hunter2@cam/")
    with capture_logs() as lines:
        answer = await api("GET", STATUS)
    found = problem(answer, 500, "internal_error")
    assert "hunter2" not in answer.text
    assert found["detail"] == IngestionException.default_message
    errors = [line for line in lines if line["log_level"] == "error"]
    assert len(errors) == 1
    assert errors[0]["exc_info"] is api.queries.error


async def test_service_errors_have_their_status_and_retry_after(api: Api) -> None:
    api.queries.error = DatabaseUnavailable()
    answer = await api("GET", STATUS)
    assert problem(answer, 503, "database_unavailable")["retryable"]
    assert answer.headers["retry-after"] == "1"
    api.orchestrator.error = TooManyPending(retry_after=2.2)
    answer = await api("POST", RTSP_PATH, json=RTSP)
    problem(answer, 429, "too_many_pending")
    assert answer.headers["retry-after"] == "3"


async def test_too_many_requests_at_once_are_503_but_health_is_served(tmp_path: Path) -> None:
    api = Api(tmp_path, API={"MAX_CONCURRENT_REQUESTS": 1})
    waiting = asyncio.create_task(api("GET", STATUS, headers={"Prefer": "wait=5"}))
    while not api.orchestrator.waits:
        await asyncio.sleep(0.01)
    answer = await api("GET", STATUS)
    problem(answer, 503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
    assert (await api("GET", "/health")).status_code == 200
    assert (await api("GET", "/metrics")).status_code == 200
    api.state.stopping.set()
    assert (await waiting).status_code == 200
    assert api.state.in_flight == 0


async def test_stopping_refuses_work_and_ends_waits(api: Api) -> None:
    began = time.monotonic()
    waiting = asyncio.create_task(api("POST", RTSP_PATH, json=RTSP, headers={"Prefer": "wait=30"}))
    while not api.orchestrator.waits:
        await asyncio.sleep(0.01)
    api.state.stopping.set()
    assert (await waiting).status_code == 202
    assert time.monotonic() - began < 5
    answer = await api("GET", STATUS)
    problem(answer, 503, "shutting_down")
    assert int(answer.headers["retry-after"]) >= 1
    assert (await api("GET", "/health/live")).json() == {"status": "alive"}
    assert (await api("GET", "/metrics")).status_code == 200
    for path in ("/health", "/health/ready"):
        answer = await api("GET", path)
        assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")


async def test_health_statuses(api: Api) -> None:
    for status, expected in (("healthy", 200), ("degraded", 200), ("unhealthy", 503)):
        api.health.status = status
        for path in ("/health", "/health/ready"):
            answer = await api("GET", path)
            assert (answer.status_code, answer.json()["status"]) == (expected, status)


async def test_before_the_start_there_is_nothing_to_ask(api: Api) -> None:
    api.state.services = None
    problem(await api("GET", STATUS), 503, "shutting_down")
    assert (await api("GET", "/health")).status_code == 503
    assert (await api("GET", "/health/live")).status_code == 200


async def test_cors(tmp_path: Path) -> None:
    api = Api(tmp_path, API={"CORS_ORIGINS": ["https://pit.example"]})
    origin = {"Origin": "https://pit.example"}
    api.queries.error = RuntimeError()
    for method, path, status in (
        ("GET", STATUS, 500),
        ("GET", "/nope", 404),
        ("GET", "/health", 200),
        ("PUT", "/health", 405),
    ):
        with capture_logs():
            answer = await api(method, path, headers=origin)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == "https://pit.example"
        exposed = answer.headers["access-control-expose-headers"]
        names = {"Location", "ETag", "Retry-After", "X-Request-ID", "Idempotent-Replayed", "WWW-Authenticate"}
        assert set(exposed.split(", ")) == names | {
            "RateLimit", "RateLimit-Policy", "X-Picture-Timestamp", "X-Picture-Age", "X-Picture-Source",
        }  # fmt: skip
        assert "Origin" in answer.headers["vary"]
    assert "Origin" in (await api("GET", "/health")).headers["vary"]
    assert "access-control-allow-origin" not in (await api("GET", "/health", headers={"Origin": "https://evil"})).headers
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "prefer, content-type"}
    answer = await api("OPTIONS", RTSP_PATH, headers={**origin, **ask})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"]
    assert "POST" in answer.headers["access-control-allow-methods"]
    problem(await api("OPTIONS", RTSP_PATH, headers={"Origin": "https://evil", **ask}), 400, "malformed_request")


async def test_without_cors_origins_there_are_no_cors_headers(api: Api) -> None:
    answer = await api("GET", "/health", headers={"Origin": "https://pit.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("headers", "waited"),
    [
        (["wait=3"], 3), (["WAIT=3"], 3), (["respond-async, wait=3"], 3), (['foo="a,wait=9", wait="3"'], 3),
        (["foo; bar=1", "wait=3; x=y"], 3), (["wait=3, wait=9"], 3), (["wait = 3"], 3), (["wait=100"], 60),
        (["wait=061"], 60),
        (["wait=" + "9" * 5000], 60), (["wait=0"], 0),
        (["wait=-1"], None), (["wait=1.5"], None), (["wait"], None), (["wait="], None),
        (["wait=abc"], None), (["wait=٣"], None),
        (["await=3"], None), (['foo="wait=3"'], None), ([""], None), (["=;,\"'"], None),
    ],
)  # fmt: skip
async def test_prefer_wait(api: Api, headers: list[str], waited: int | None) -> None:
    api.orchestrator.becomes_final = True
    api.queries.status = IngestionStatus.FAILED
    sent: Any = [("Prefer", value.encode()) for value in headers]
    for method, path, body in (("POST", RTSP_PATH, RTSP), ("GET", STATUS, None)):
        api.orchestrator.waits.clear()
        answer = await api(method, path, json=body, headers=sent)
        assert api.orchestrator.waits == ([] if waited is None else [float(waited)])
        assert answer.headers.get("preference-applied") == (None if waited is None else f"wait={waited}")
        expected = 202 if method == "POST" and waited is None else 200
        assert answer.status_code == expected
        if method == "POST":
            assert answer.headers["location"] == STATUS
        else:
            assert "Prefer" in answer.headers["vary"]


async def test_a_wait_that_is_not_final_is_202(api: Api) -> None:
    answer = await api("POST", RTSP_PATH, json=RTSP, headers={"Prefer": "wait=0"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=0")


async def test_an_unknown_request_is_404_without_a_wait(api: Api) -> None:
    problem(await api("GET", f"/api/v1/ingest/status/{new_id()}", headers={"Prefer": "wait=9"}), 404, "request_not_found")
    assert api.orchestrator.waits == []


async def test_cancel(api: Api) -> None:
    path = f"/api/v1/ingest/requests/{KNOWN}/cancel"
    answer = await api("POST", path)
    assert (answer.status_code, answer.headers["location"]) == (202, STATUS)
    api.orchestrator.was_final = True
    assert (await api("POST", path)).status_code == 200
    problem(await api("POST", f"/api/v1/ingest/requests/{new_id()}/cancel"), 404, "request_not_found")


async def test_a_stop_seen_by_the_orchestrator_is_503(api: Api) -> None:
    api.orchestrator.accepting_error = ShuttingDown()
    problem(await api("POST", RTSP_PATH, json=RTSP), 503, "shutting_down")
    problem(await api("POST", "/api/v1/ingest/upload", content=b"x"), 503, "shutting_down")
    problem(await api("POST", "/api/v1/cameras/x/snapshot"), 503, "shutting_down")
