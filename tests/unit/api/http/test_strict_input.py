"""Strict input: what is refused, how, and that nothing of it comes back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from api.http.openapi import schema_of
from api.http.validation import PATTERN_WORDS, message_of
from api.http.validation import pointer as json_pointer
from config import Settings
from models.schemas import FrameMeta
from models.schemas.base import Input, format_time, parse_time
from models.values import IngestionStatus
from tests.unit.api.support import KNOWN, RTSP, Api, problem
from tests.unit.api.support import api as api

RTSP_PATH = "/api/v1/ingest/rtsp"
JSON = {"Content-Type": "application/json"}


async def post_raw(api: Api, raw: bytes | str, headers: dict[str, str] | None = None) -> Any:
    return await api("POST", RTSP_PATH, content=raw, headers=headers or JSON)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"camera_id": "a", "camera_id": "b"}',
        b'{"camera_id": "cam", "meta": {"extra": {"x": 1, "x": 2}}}',
        b'{"camera_id": "cam", "fps": NaN}',
        b'{"camera_id": "cam", "fps": -Infinity}',
        b'{"camera_id": "cam", "meta": {"extra": {"x": 1e999}}}',
        b'{"camera_id": "\xff"}',
        b'{"camera_id": "cam", "meta": {"extra": {"x": "a\\u0000b"}}}',
        b'{"camera_id": "cam", "meta": {"extra": {"\\u0000": 1}}}',
        b'{"camera_id": "cam", "meta": {"extra": {"x": ["\\ud800"]}}}',
        b'{"camera_id": "cam", "meta": {"extra": ' + b"[" * 100 + b"]" * 100 + b"}}",
        b"[" * 100_000,
        b'{"camera_id": ' + b"9" * 5000 + b"}",
        b'\xef\xbb\xbf{"camera_id": "cam"}',
        b'{"camera_id": "cam"',
        b'{"camera_id": "cam"} x',
        "{}".encode("utf-16"),
    ],
)
async def test_malformed_json_is_400(api: Api, raw: bytes) -> None:
    problem(await post_raw(api, raw), 400, "malformed_request")
    assert not api.orchestrator.submitted


async def test_more_than_any_schema_has_is_400_before_the_model(api: Api) -> None:
    """A megabyte of unknown fields held the event loop for half a second: an error was made of each."""
    flat = json.dumps({**RTSP, **{f"k{n:05}": 1 for n in range(68_000)}})
    assert len(flat) > 800_000
    lag, answer = await with_lag(post_raw(api, flat))
    print(f"{len(flat)} bytes of unknown fields: the event loop was held for {lag * 1000:.1f} ms")
    problem(answer, 400, "malformed_request")
    for raw in (
        json.dumps({**RTSP, **{f"k{n}": 1 for n in range(1001)}}), json.dumps({**RTSP, "meta": {"extra": [1] * 20_001}}),
        json.dumps({**RTSP, "meta": {"extra": [[]] * 15_000}}), json.dumps({**RTSP, "meta": {"extra": [{}] * 15_000}}),
        "[" * 900_000, '{"a":' * 150_000,
    ):  # fmt: skip
        problem(await post_raw(api, raw), 400, "malformed_request")
    assert not api.orchestrator.submitted


async def with_lag(work: Any) -> tuple[float, Any]:
    """The longest time, in seconds, that the event loop did nothing else, and the work's result."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    result = await work
    await asyncio.sleep(0.01)
    ticking.cancel()
    return longest, result


async def test_as_much_as_the_schemas_have_is_read(api: Api) -> None:
    full = {**RTSP, "meta": {"extra": {f"k{n}": n for n in range(999)}}}
    assert (await api("POST", RTSP_PATH, json=full)).status_code == 202
    assert (await api("POST", RTSP_PATH, json={**RTSP, "meta": {"extra": {"a": [1] * 5000}}})).status_code == 202


async def test_escaped_pairs_of_surrogates_are_fine(api: Api) -> None:
    answer = await post_raw(api, json.dumps({**RTSP, "meta": {"session": "🏎"}}))
    assert answer.status_code == 202
    assert api.orchestrator.submitted[0].meta.session == "🏎"


@pytest.mark.parametrize(
    ("body", "pointer", "name"),
    [
        ({"rtsp_url": "rtsp://h/x"}, "/camera_id", "camera_id"),
        ({**RTSP, "fps": "5"}, "/fps", "fps"),
        ({**RTSP, "fps": True}, "/fps", "fps"),
        ({**RTSP, "fps": 31}, "/fps", "fps"),
        ({**RTSP, "capture_mode": "sometimes"}, "/capture_mode", "capture_mode"),
        ({**RTSP, "unheard_of": 1}, "/unheard_of", "unheard_of"),
        # What went astray, a URL or a credential, is not repeated as the name of a field.
        ({**RTSP, "rtsp://user:SECRET@host/x": 1}, "", "body"),
        ({**RTSP, "meta": {"tsk_SECRETSECRET_SECRETSECRETSECRETSECRETSECRET123456": 1}}, "/meta", "meta"),
        ({**RTSP, "meta": {"exposure": -1}}, "/meta/exposure", "exposure"),
        ({**RTSP, "meta": {"color": 1}}, "/meta/color", "color"),
        ({**RTSP, "frame_timestamp": "2026-05-04T13:30:00"}, "/frame_timestamp", "frame_timestamp"),
        ({**RTSP, "max_frames": 5.0}, "/max_frames", "max_frames"),
        ([], "", "body"),
    ],
)
async def test_invalid_fields_are_422_with_pointers(api: Api, body: Any, pointer: str, name: str) -> None:
    found = problem(await api("POST", RTSP_PATH, json=body), 422, "invalid_request")
    assert [(e["in"], e["pointer"], e["name"]) for e in found["errors"]] == [("body", pointer, name)]
    assert "SECRET" not in json.dumps(found)


def test_pointers_are_escaped() -> None:
    assert json_pointer(["a/b~c", 0, "d"]) == "/a~1b~0c/0/d"


async def test_not_applicable_names_the_field(api: Api) -> None:
    found = problem(await api("POST", RTSP_PATH, json={**RTSP, "pre_roll": 1}), 422, "not_applicable")
    assert found["errors"][0]["pointer"] == "/pre_roll"


@pytest.mark.parametrize("mode", ["continuous", "event_driven"])
@pytest.mark.parametrize(("more", "pointer"), [
    ({"sampling": "auto"}, "/sampling"), ({"sampling": "exact"}, "/sampling"), ({"jpeg_quality": 90}, "/jpeg_quality"),
])  # fmt: skip
async def test_what_only_a_jpeg_can_be_is_not_applicable_to_source(
    api: Api, mode: str, more: dict[str, Any], pointer: str
) -> None:
    body = {**RTSP, "capture_mode": mode, "encoding": "source", **more}
    found = problem(await api("POST", RTSP_PATH, json=body), 422, "not_applicable")
    assert found["errors"][0]["pointer"] == pointer
    assert "keyframes as they came" in json.dumps(found)


async def test_a_snapshot_of_the_source_has_no_quality(api: Api) -> None:
    path = "/api/v1/cameras/cam/snapshot"
    found = problem(await api("POST", path, json={"encoding": "source", "jpeg_quality": 90}), 422, "not_applicable")
    assert found["errors"][0]["pointer"] == "/jpeg_quality"


@pytest.mark.parametrize(
    "body",
    [
        {**RTSP, "capture_mode": "SECRETVALUE"},
        {**RTSP, "source_type": "SECRETVALUE"},
        {**RTSP, "rtsp_url": "http://user:SECRETVALUE@h/"},
        {**RTSP, "camera_id": "SECRETVALUE!"},
        {**RTSP, "fps": "SECRETVALUE"},
        {**RTSP, "frame_timestamp": "SECRETVALUE"},
        {**RTSP, "meta": "SECRETVALUE"},
        {**RTSP, "meta": {"exposure": "SECRETVALUE"}},
        {**RTSP, "unknown": "SECRETVALUE"},
        {**RTSP, "x\n" + "SECRETVALUE": 1},
    ],
)
async def test_input_is_never_echoed(api: Api, body: dict[str, Any]) -> None:
    answer = await api("POST", RTSP_PATH, json=body)
    assert answer.status_code == 422
    assert "SECRETVALUE" not in answer.text
    assert "SECRETVALUE" not in (await post_raw(api, b'{"camera_id": SECRETVALUE}')).text


@pytest.mark.parametrize("kind", ["value_error", "assertion_error", "uuid_parsing", "datetime_parsing", "json_invalid"])
def test_messages_that_may_quote_the_value_are_replaced(kind: str) -> None:
    assert message_of({"type": kind, "msg": "found SECRETVALUE at 1"}) in ("is not valid", "must be a UUID")
    assert message_of({"type": "camera_id", "msg": "must not be only dots"}) == "must not be only dots"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rtsp_url": "http://192.168.1.20/x"}, "must begin with rtsp:// or rtsps://"),
        ({"rtsp_url": "rtsp://"}, "must have at least 8 character(s)"),
        ({"camera_id": "pit lane"}, "may hold letters, digits, '.', '_' and '-', at most 100"),
        ({"camera_id": ""}, "must have at least 1 character(s)"),
        ({"camera_id": "a" * 101}, "must have at most 100 characters"),
        ({"camera_id": 5}, "must be a string"),
        ({"capture_mode": "sometimes"}, "must be 'single_frame', 'continuous' or 'event_driven'"),
        ({"source_type": "upload"}, "must be 'rtsp'"),
        ({"fps": 0}, "must be greater than 0"),
        ({"fps": 31}, "must be at most 30"),
        ({"fps": "5"}, "must be a number"),
        ({"max_frames": 5.5}, "must be an integer"),
        ({"max_frames": 100_001}, "must be at most 100000"),
        ({"jpeg_quality": 49}, "must be at least 50"),
        ({"motion": {"enabled": 1}}, "must be true or false"),
        ({"meta": []}, "must be an object"),
        ({"meta": {"extra": []}}, "must be an object"),
        ({"frame_timestamp": "2026-05-04"}, "must be an RFC 3339 time with an offset, e.g. 2026-05-04T13:30:00Z"),
        ({"unheard_of": 1}, "is not a known field"),
    ],
)
async def test_messages_are_in_words(api: Api, change: dict[str, Any], message: str) -> None:
    """For a person: no regular expression, nothing of the validator's own language."""
    found = problem(await api("POST", RTSP_PATH, json={**RTSP, **change}), 422, "invalid_request")
    assert [error["message"] for error in found["errors"]] == [message]
    assert found["detail"].endswith(f": {message}")


def patterns_in(node: Any) -> set[str]:
    """Every `pattern` of a JSON document."""
    if isinstance(node, dict):
        own = {node["pattern"]} if isinstance(node.get("pattern"), str) else set()
        return own.union(*(patterns_in(value) for value in node.values()))
    return set().union(*(patterns_in(value) for value in node)) if isinstance(node, list) else set()


async def test_every_pattern_has_words(api: Api) -> None:
    by_hand = ("Idempotency-Key", "after", "types")  # their endpoints check these, in words of their own
    schema = schema_of(api.app)
    parameters = [item for path in schema["paths"].values() for op in path.values() for item in op.get("parameters", [])]
    found = patterns_in([item for item in parameters if item["name"] not in by_hand])
    found |= patterns_in(schema["components"]) | patterns_in(Settings.model_json_schema())
    assert len(found) >= 6
    assert found <= PATTERN_WORDS.keys()


async def test_every_kind_of_error_has_words() -> None:
    """Each constraint that our schemas use, broken once."""

    class Everything(Input):
        text: str = Field(min_length=2, max_length=3)
        number: float = Field(gt=0, lt=2)
        whole: int = Field(ge=1, le=2)
        flag: bool
        one: Literal["a"]
        state: IngestionStatus = Field(strict=False)
        items: list[int] = Field(min_length=1, max_length=2)
        free: dict[str, Any]
        inner: FrameMeta

    said: set[str] = set()
    for broken in (
        {}, {"text": 1, "number": "x", "whole": 1.5, "flag": 0, "one": "b", "state": "c", "items": 1, "free": 1, "inner": 1},
        {"text": "a", "number": 0, "whole": 0, "items": [], "more": 1}, {"text": "abcd", "number": 2, "whole": 3},
        {"number": float("nan"), "items": [1, 2, 3], "whole": "x"},
    ):  # fmt: skip
        with pytest.raises(ValidationError) as caught:
            Everything.model_validate(broken)
        said |= {message_of(error) for error in caught.value.errors()}
    assert "is not valid" not in said
    assert all(message.startswith(("must ", "is ")) for message in said), said
    assert len(said) >= 19


async def test_the_query_is_not_echoed(api: Api) -> None:
    for query in ("limit=SECRETVALUE", "status=SECRETVALUE", "x=SECRETVALUE", "camera_id=SECRETVALUE!", "%FF=SECRETVALUE"):
        assert "SECRETVALUE" not in (await api("GET", f"/api/v1/ingest/requests?{query}")).text


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        ({"Content-Type": "application/json; charset=latin-1"}, 415, "unsupported_media_type"),
        ({}, 415, "unsupported_media_type"),
        ({**JSON, "Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
    ],
)
async def test_only_json_is_taken(api: Api, headers: dict[str, str], status: int, code: str) -> None:
    request = api.client.build_request("POST", RTSP_PATH, content=json.dumps(RTSP), headers=headers)
    if "Content-Type" not in headers:
        request.headers.pop("content-type", None)
    problem(await api.client.send(request), status, code)


async def test_charset_utf8_and_json_suffix_are_fine(api: Api) -> None:
    for kind in ('application/json; charset="UTF-8"', "application/vnd.trackshift+json", "APPLICATION/JSON"):
        assert (await post_raw(api, json.dumps(RTSP), {"Content-Type": kind})).status_code == 202


async def test_an_empty_body_is_a_missing_field(api: Api) -> None:
    problem(await api("POST", RTSP_PATH), 422, "invalid_request")


async def test_a_body_over_the_limit_is_413(tmp_path: Path) -> None:
    api = Api(tmp_path, API={"MAX_JSON_BYTES": 1024})
    problem(await post_raw(api, b" " * 1025), 413, "payload_too_large")

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 1000

    problem(await api("POST", RTSP_PATH, content=stream(), headers=JSON), 413, "payload_too_large")
    assert not api.orchestrator.submitted


async def test_a_stalled_body_is_408(tmp_path: Path) -> None:
    api = Api(tmp_path, API={"BODY_TIMEOUT": 0.05})

    async def stream() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    answer = await api("POST", RTSP_PATH, content=stream(), headers=JSON)
    assert problem(answer, 408, "request_timeout")["retryable"]
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/ingest/requests", "/api/v1/frames", f"/api/v1/frames/{KNOWN}", f"/api/v1/ingest/status/{KNOWN}", "/health",
        "/health/live", "/metrics", "/docs", "/openapi.json", "/api/v1/cameras", f"/api/v1/frames/{KNOWN}/content",
    ],
)  # fmt: skip
async def test_unknown_query_parameters_are_422_everywhere(api: Api, path: str) -> None:
    found = problem(await api("GET", f"{path}?nope=1"), 422, "invalid_request")
    assert found["errors"] == [
        {
            "in": "query",
            "pointer": "",
            "name": "nope",
            "code": "extra_forbidden",
            "message": "is not a known query parameter",
        }
    ]


async def test_unknown_query_parameters_are_422_on_writes_before_the_body(api: Api) -> None:
    problem(await api("POST", f"{RTSP_PATH}?x=1", content=b"not json", headers=JSON), 422, "invalid_request")
    problem(await api("POST", "/api/v1/ingest/upload?x=1", content=b""), 422, "invalid_request")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=201", "limit=5.0", "limit=+5", "limit=%205", "limit=1_0", "limit=", "limit=5&limit=5",
        "limit=true",
        "limit=٥", "cursor=", "status=Pending", "status=", "source_type=usb", "created_from=2026-05-04T13:30:00",
        "created_from=2026-05-04", "camera_id=..", "camera_id=a%00b", "camera_id=a%0A", "capture_mode=all",
        "created_to=1777900000", "phase=during", "phase=", "subject=", "session=a%00b",
    ],
)  # fmt: skip
async def test_query_values_are_strict(api: Api, query: str) -> None:
    problem(await api("GET", f"/api/v1/ingest/requests?{query}"), 422, "invalid_request")


async def test_a_query_that_is_not_utf8_is_400(api: Api) -> None:
    problem(await api("GET", "/api/v1/ingest/requests?camera_id=%FF"), 400, "malformed_request")


async def test_good_query_values_arrive(api: Api) -> None:
    query = f"camera_id=c&request_id={KNOWN}&from=2026-05-04T15:30:00%2B02:00&order=desc&limit=7&cursor=abc"
    assert (await api("GET", f"/api/v1/frames?{query}")).status_code == 200
    matching, limit, cursor = api.queries.filters[0]
    assert (matching.camera_id, matching.request_id, matching.descending, limit, cursor) == ("c", KNOWN, True, 7, "abc")
    assert matching.from_.isoformat() == "2026-05-04T13:30:00+00:00"


@pytest.mark.parametrize("value", ["x", str(KNOWN).replace("-", ""), f"{{{KNOWN}}}", f"urn:uuid:{KNOWN}", f"{KNOWN}%0A"])
async def test_malformed_ids_are_422(api: Api, value: str) -> None:
    for method, path in (("GET", "ingest/status/{}"), ("GET", "frames/{}"), ("DELETE", "frames/{}"),
                         ("GET", "frames/{}/content"), ("GET", "ingest/requests/{}/events"),
                         ("POST", "ingest/requests/{}/cancel"), ("POST", "ingest/requests/{}/trigger")):  # fmt: skip
        found = problem(await api(method, "/api/v1/" + path.format(value)), 422, "invalid_request")
        assert found["errors"][0]["in"] == "path"
    problem(await api("GET", f"/api/v1/frames?request_id={value}"), 422, "invalid_request")


@pytest.mark.parametrize("value", ["1", "yes", "True", ""])
async def test_flags_are_true_or_false(api: Api, value: str) -> None:
    problem(await api("GET", f"/api/v1/frames/{KNOWN}/content?proxy={value}"), 422, "invalid_request")


@pytest.mark.parametrize("moment", ["0157-12-31T14:50:29.000001Z", "2026-05-04T13:30:00.000000Z"])
def test_a_time_is_written_as_it_was_read(moment: str) -> None:
    assert format_time(parse_time(moment)) == moment
