"""Idempotency-Key on the wire: its form, which routes take it, what a fingerprint is over, what is answered again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from api.http.idempotency import form_fingerprint, json_fingerprint, parse_key, takes_key
from api.http.receive import ReceivedForm
from api.http.strict_json import loads
from models.schemas import UploadIngestionRequest
from models.values import ReceivedFile
from tests.unit.api.support import KNOWN, RTSP, Api, api, problem
from utils.exceptions import CameraFailed, DatabaseUnavailable, InvalidImage, MalformedRequest, NotRunning

__all__ = ["api"]

RTSP_PATH = "/api/v1/ingest/rtsp"
UPLOAD = "/api/v1/ingest/upload"
BURST: dict[str, Any] = {"camera_ids": ["a", "b"]}
FILE = ("a.jpg", b"\xff\xd8picture", "image/jpeg")


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (["abc"], "abc"), (['"abc"'], "abc"), ([' "abc" '], "abc"), ([r'"a\"b\\c"'], r'a"b\c'), (["k" * 255], "k" * 255),
        (['"' + "k" * 255 + '"'], "k" * 255), (["!~;=/+"], "!~;=/+"), (['"a,b"'], "a,b"), ([], None),
    ],
)  # fmt: skip
def test_forms_of_a_key(header: list[str], key: str | None) -> None:
    assert parse_key(header) == key


MALFORMED = [
    ["k" * 256], ["a b"], ['"a'], ['a"'], ['""'], [""], ['"a", "b"'], ["a,b"], ["a", "b"], ["ü"], [r'"a\b"'], ['"a b"'],
]  # fmt: skip


@pytest.mark.parametrize("header", MALFORMED)
def test_what_is_no_key(header: list[str]) -> None:
    with pytest.raises(MalformedRequest):
        parse_key(header)


async def test_every_post_under_ingest_takes_a_key_and_says_so(api: Api) -> None:
    document = (await api("GET", "/openapi.json")).json()
    keyed = [path for path, found in document["paths"].items() if "post" in found and takes_key({"POST"}, path)]
    assert {RTSP_PATH, UPLOAD, "/api/v1/ingest/burst", "/api/v1/cameras/{camera_id}/snapshot"} <= set(keyed)
    for path in keyed:
        path = re.sub(r"{\w*}", str(KNOWN), path)
        problem(await api("POST", path, headers={"Idempotency-Key": "a b"}), 400, "malformed_request")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            named = "Idempotency-Key" in [item["name"] for item in operation.get("parameters", [])]
            assert named == (path in keyed and method == "post"), path
            codes = {code for answer in operation["responses"].values() for code in _codes(answer)}
            assert ({"request_in_progress", "idempotency_key_reused"} <= codes) == named, path
    assert not api.keys.known


def _codes(answer: dict[str, Any]) -> set[str]:
    return set(answer.get("content", {}).get("application/problem+json", {}).get("examples", {}))


async def test_on_other_routes_a_key_is_ignored(api: Api) -> None:
    answer = await api("GET", "/api/v1/cameras", headers={"Idempotency-Key": "a b"})
    assert answer.status_code == 200
    problem(await api("POST", "/api/v1/cameras/probe", headers={"Idempotency-Key": "a b"}), 422, "invalid_request")
    assert not api.keys.known


async def test_the_same_key_and_body_is_answered_again(api: Api) -> None:
    first = await api("POST", RTSP_PATH, json=RTSP, headers={"Idempotency-Key": '"k"'})
    text = '{"rtsp_url": "rtsp://127.0.0.1/x",   "camera_id": "cam-1"}'
    sent = {"Idempotency-Key": "k", "Content-Type": "application/json", "Prefer": "wait=5"}
    again = await api("POST", RTSP_PATH, content=text, headers=sent)
    assert (first.status_code, again.status_code) == (202, 202)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert again.content == first.content
    assert len(api.orchestrator.submitted) == 1
    assert not api.orchestrator.waits


async def test_another_body_is_refused(api: Api) -> None:
    await api("POST", RTSP_PATH, json=RTSP, headers={"Idempotency-Key": "k"})
    other = await api("POST", RTSP_PATH, json={**RTSP, "fps": 2}, headers={"Idempotency-Key": "k"})
    problem(other, 422, "idempotency_key_reused")
    elsewhere = await api("POST", f"/api/v1/ingest/requests/{KNOWN}/cancel", headers={"Idempotency-Key": "k"})
    assert "idempotent-replayed" not in elsewhere.headers
    assert len(api.orchestrator.submitted) == 1


async def test_an_upload_is_the_same_whatever_its_boundary(api: Api) -> None:
    async def post(**more: Any) -> Any:
        return await api("POST", UPLOAD, files={"files": FILE}, headers={"Idempotency-Key": "u"}, **more)

    first, again = await post(data={"camera_id": "c"}), await post(data={"camera_id": "c"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["idempotent-replayed"] == "true"
    problem(await post(data={"camera_id": "c", "meta": '{"session": "Q"}'}), 422, "idempotency_key_reused")
    assert len(api.orchestrator.uploads) == 1
    assert not api.temp_folders


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(DatabaseUnavailable(), 503, "database_unavailable"), (NotRunning(), 409, "not_running"),
     (CameraFailed("no_video", "x", retryable=False), 502, "no_video"), (RuntimeError(), 500, "internal_error")],
)  # fmt: skip
async def test_what_is_no_answer_frees_the_key(api: Api, error: Exception, status: int, code: str) -> None:
    api.orchestrator.error = error
    problem(await api("POST", RTSP_PATH, json=RTSP, headers={"Idempotency-Key": "k"}), status, code)
    assert not api.keys.known
    api.orchestrator.error = None
    assert (await api("POST", RTSP_PATH, json=RTSP, headers={"Idempotency-Key": "k"})).status_code == 202


async def test_a_refusal_is_answered_again(api: Api) -> None:
    api.orchestrator.error = InvalidImage()
    headers, form = {"Idempotency-Key": "k"}, {"data": {"camera_id": "c"}, "files": {"files": FILE}}
    first = await api("POST", UPLOAD, headers=headers, **form)
    problem(first, 422, "invalid_image")
    api.orchestrator.error = None
    again = await api("POST", UPLOAD, headers=headers, **form)
    assert again.status_code == 422
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["content-type"] == "application/problem+json"
    assert again.json() == first.json()
    wrong = {**RTSP, "fps": "5"}
    for replayed in (None, "true"):  # refused by the schema: a body that was there whole
        answer = await api("POST", RTSP_PATH, json=wrong, headers=headers)
        assert (answer.status_code, answer.headers.get("idempotent-replayed")) == (422, replayed)


async def test_what_is_refused_before_the_body_is_there_uses_no_key(api: Api) -> None:
    headers = {"Idempotency-Key": "k"}
    problem(await api("POST", RTSP_PATH, content=b"{", headers={**headers, "Content-Type": "application/json"}),
            400, "malformed_request")  # fmt: skip
    problem(await api("POST", UPLOAD, content=b"x", headers={**headers, "Content-Type": "text/plain"}),
            415, "unsupported_media_type")  # fmt: skip
    answer = await api("POST", UPLOAD, data={"camera_id": "c c"}, files={"files": FILE}, headers=headers)
    problem(answer, 422, "invalid_request")
    assert not api.keys.known


async def test_ids_come_from_the_attempt_with_and_without_a_key(api: Api) -> None:
    for headers in ({}, {"Idempotency-Key": "k"}):
        await api("POST", RTSP_PATH, json=RTSP, headers=headers)
    first, second = api.orchestrator.attempts
    assert (first.keyed, second.keyed) == (False, True)
    assert first.request_id != second.request_id


def test_fingerprint_of_json() -> None:
    def of(text: str, query: bytes = b"") -> str:
        return json_fingerprint(loads(text.encode()) if text else None, query)

    same = {of('{"a": 1, "b": {"c": [1, 2], "d": null}}'), of('{ "b":{"d":null,"c":[1,2]},"a":1 }')}
    assert len(same) == 1
    others = {of('{"a": 1}'), of('{"a": 2}'), of('{"a": "1"}'), of('{"a": [1]}'), of("{}"), of(""), of("", b"x=1")}
    assert len(others | same) == 8
    assert of("", b"x=1&y=2") == of("", b"y=2&x=1")


def test_fingerprint_of_a_form() -> None:
    def of(*files: tuple[str, str, str, int, bool], camera: str = "c", **meta: str) -> str:
        fields = UploadIngestionRequest.model_validate({"camera_id": camera, "meta": meta})
        received = [
            ReceivedFile(index, name, kind, Path("/x"), size, sha, large)
            for index, (name, kind, sha, size, large) in enumerate(files)
        ]
        return form_fingerprint(ReceivedForm(fields, received))

    a, b = ("a.jpg", "image/jpeg", "aa", 1, False), ("b.jpg", "image/jpeg", "bb", 2, False)
    assert of(a, b) == of(a, b)
    told = [
        of(a, b), of(b, a), of(a), of(a, b, camera="d"), of(a, b, session="Q"), of(("x.jpg", *a[1:]), b),
        of((a[0], "image/png", *a[2:]), b), of((*a[:2], "cc", 1, False), b), of((*a[:4], True), b),
    ]  # fmt: skip
    assert len(set(told)) == len(told)
    # Of a file that was not received whole nobody knows how much of it was.
    assert of((*a[:2], "aa", 1, True)) == of((*a[:2], "zz", 9, True))
