"""Frames: the redirect, the proxied bytes, conditional and range requests."""

from __future__ import annotations

import httpx
import pytest
from structlog.testing import capture_logs

from tests.unit.api.support import CONTENT, KNOWN, SHA256, Api, problem
from tests.unit.api.support import api as api
from utils.exceptions import FrameOnHold
from utils.ids import new_id

PATH = f"/api/v1/frames/{KNOWN}/content"
ETAG = f'"{SHA256}"'
SIZE = len(CONTENT)


async def proxied(api: Api, **headers: str) -> httpx.Response:
    return await api("GET", f"{PATH}?proxy=true", headers={name.replace("_", "-"): value for name, value in headers.items()})


async def test_content_redirects(api: Api) -> None:
    for query in ("", "?proxy=false"):
        answer = await api("GET", PATH + query)
        assert answer.status_code == 307
        assert answer.headers["location"] == api.queries.content.presigned_url
        assert answer.headers["cache-control"] == "no-store"
    problem(await api("GET", f"/api/v1/frames/{new_id()}/content"), 404, "frame_not_found")


async def test_proxied_bytes(api: Api) -> None:
    answer = await proxied(api)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["etag"] == ETAG
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-length"] == str(SIZE)
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["content-disposition"] == "inline; filename=\"__x.jpg\"; filename*=UTF-8''%C3%BC_x.jpg"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "sandbox"


@pytest.mark.parametrize("query", ["", "?proxy=true"])
async def test_head_has_the_proxied_headers_and_reads_nothing(api: Api, query: str) -> None:
    answer = await api("HEAD", PATH + query, headers={"Range": "bytes=0-1"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(SIZE)
    assert answer.headers["etag"] == ETAG
    assert api.queries.content.reads == []
    assert (await api("HEAD", PATH + query, headers={"If-None-Match": ETAG})).status_code == 304


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (ETAG, 304), (f"W/{ETAG}", 304), ("*", 304), (f'"x", {ETAG}', 304), (f'"x",W/{ETAG} , "y"', 304),
        ('"x"', 200), (SHA256, 200), ('"x" "y"', 200), ("", 200),
    ],
)  # fmt: skip
async def test_if_none_match(api: Api, value: str, status: int) -> None:
    answer = await proxied(api, If_None_Match=value)
    assert answer.status_code == status
    assert answer.headers["etag"] == ETAG
    assert (answer.content == b"") == (status == 304)


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [
        ("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=1000-", 1000, SIZE), ("bytes=-1", SIZE - 1, SIZE),
        ("bytes=-5000", 0, SIZE), ("bytes=1000-99999", 1000, SIZE), ("BYTES=0-0", 0, 1), ("bytes=0-" + "9" * 5000, 0, SIZE),
    ],
)  # fmt: skip
async def test_one_range(api: Api, value: str, start: int, stop: int) -> None:
    answer = await proxied(api, Range=value)
    assert (answer.status_code, answer.content) == (206, CONTENT[start:stop])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(stop - start)
    assert api.queries.content.reads == [(start, stop)]


@pytest.mark.parametrize(
    "value", ["bytes=0-0,5-6", "items=0-1", "bytes=5-2", "bytes=", "bytes=-", "bytes=a-b", "bytes 0-1", "0-1"]
)
async def test_several_or_malformed_ranges_give_the_whole(api: Api, value: str) -> None:
    answer = await proxied(api, Range=value)
    assert (answer.status_code, answer.content) == (200, CONTENT)


@pytest.mark.parametrize("value", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", "bytes=-0", "bytes=" + "9" * 5000 + "-"])
async def test_unsatisfiable_ranges(api: Api, value: str) -> None:
    answer = await proxied(api, Range=value)
    problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    ("if_range", "status"),
    [(ETAG, 206), (f"W/{ETAG}", 200), ('"x"', 200), ("Mon, 04 May 2026 13:30:00 GMT", 200), ("*", 200)],
)
async def test_if_range(api: Api, if_range: str, status: int) -> None:
    assert (await proxied(api, Range="bytes=0-9", If_Range=if_range)).status_code == status
    assert (await proxied(api, Range=f"bytes={SIZE}-", If_Range='"x"')).status_code == 200


async def test_a_store_that_fails_at_once_is_a_problem(api: Api) -> None:
    api.queries.content.fail_at = 0
    with capture_logs():
        answer = await proxied(api)
    problem(answer, 500, "internal_error")
    assert "hunter2" not in answer.text


async def test_a_store_that_fails_later_leaves_the_answer_short(api: Api) -> None:
    api.queries.content.fail_at = 300
    with capture_logs() as lines, pytest.raises(AssertionError):  # httpx's: the answer was never completed
        await proxied(api)
    # The server closes such a connection, so that the client sees fewer bytes than Content-Length.
    assert len([line for line in lines if line["log_level"] == "error"]) == 1


async def test_nearest_comes_before_ids(api: Api) -> None:
    answer = await api("GET", "/api/v1/frames/nearest?camera_id=cam-1&at=2026-05-04T13:30:00Z")
    assert answer.json()["distance_ms"] == 1.0
    problem(await api("GET", "/api/v1/frames/nearest?camera_id=cam-1"), 422, "invalid_request")
    problem(await api("GET", "/api/v1/frames/nearest?camera_id=cam-1&at=2026-05-04T13:30:00"), 422, "invalid_request")


async def test_delete_is_always_204(api: Api) -> None:
    for frame_id in (KNOWN, new_id()):
        answer = await api("DELETE", f"/api/v1/frames/{frame_id}")
        assert (answer.status_code, answer.content) == (204, b"")
    problem(await api("DELETE", "/api/v1/frames/not-an-id"), 422, "invalid_request")


async def test_a_hold_takes_a_reason_or_none(api: Api) -> None:
    path = f"/api/v1/frames/{KNOWN}/hold"
    assert (await api("POST", path)).status_code == 200
    for reason in (None, "protest", "x" * 200):
        answer = await api("POST", path, json={"reason": reason} if reason else {})
        assert answer.status_code == 200
        assert answer.json()["held_at"].endswith("Z")
        assert answer.json()["hold_reason"] == reason
    assert api.queries.holds == [None, None, "protest", "x" * 200]
    for wrong in ("", "x" * 201, 5):
        problem(await api("POST", path, json={"reason": wrong}), 422, "invalid_request")
    problem(await api("POST", path, json={"until": "2027-01-01T00:00:00Z"}), 422, "invalid_request")
    problem(await api("POST", f"/api/v1/frames/{new_id()}/hold"), 404, "frame_not_found")
    assert (await api("DELETE", path)).status_code == 204
    problem(await api("DELETE", f"/api/v1/frames/{new_id()}/hold"), 404, "frame_not_found")


async def test_a_frame_on_hold_is_not_deleted(api: Api) -> None:
    api.queries.error = FrameOnHold()
    refused = problem(await api("DELETE", f"/api/v1/frames/{KNOWN}"), 409, "frame_on_hold")
    assert not refused["retryable"]
