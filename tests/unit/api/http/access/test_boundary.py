"""Hosts and origins: what a page of a stranger can make a browser send."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.api.support import RTSP, Api, problem

PATH = "/api/v1/ingest/rtsp"


@pytest.mark.parametrize(
    ("host", "there"),
    [
        ("localhost", True), ("localhost:8000", True), ("LOCALHOST.", True), ("app.localhost", True), ("127.0.0.1:80", True),
        ("[::1]:8000", True), ("127.9.9.9", True), ("evil.example", False), ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False), ("192.168.1.7", False), ("", False), ("a b", False), ("user@localhost", False),
    ],
)  # fmt: skip
async def test_with_access_off_only_loopback_names_are_answered(tmp_path: Path, host: str, there: bool) -> None:
    api = Api(tmp_path)
    answer = await api("GET", "/api/v1/frames", headers={"Host": host})
    assert answer.status_code == (200 if there else 403)
    assert (await api("GET", "/health/live", headers={"Host": host})).status_code == 200


async def test_the_hosts_that_are_allowed_and_no_others(tmp_path: Path) -> None:
    api = Api(tmp_path, API={"ALLOWED_HOSTS": ["ingest.example", "[::1]"]})
    for host, status in (("ingest.example:443", 200), ("[::1]", 200), ("localhost", 403), ("x.ingest.example", 403)):
        assert (await api("GET", "/api/v1/frames", headers={"Host": host})).status_code == status, host


@pytest.mark.parametrize("host", ["", 'a"b', "a b", "a" * 256, "\xff", "user@a", "a:1:2", "a/b"])
async def test_with_access_on_any_name_is_answered_but_only_a_name(tmp_path: Path, host: str) -> None:
    api, path = Api(tmp_path, AUTH={"MODE": "keys"}), "/.well-known/oauth-protected-resource"
    problem(await api("GET", path, headers={"Host": host.encode("latin-1")}), 403, "forbidden")
    assert (await api("GET", path, headers={"Host": "any.example:8000"})).json()["resource"] == "http://any.example:8000"


@pytest.mark.parametrize(
    ("origin", "there"),
    [
        (None, True), ("http://localhost", True), ("http://localhost:80", True), ("https://pit.example", True),
        ("https://evil.example", False), ("null", False), ("http://localhost:9000", False), ("https://localhost", True),
        ("http://localhost.evil.example", False), ("file://", False), ("", False),
    ],
)  # fmt: skip
async def test_a_foreign_page_changes_nothing(tmp_path: Path, origin: str | None, there: bool) -> None:
    api = Api(tmp_path, API={"CORS_ORIGINS": ["https://pit.example"]})
    headers: dict[str, Any] = {"Origin": origin} if origin is not None else {}
    answer = await api("POST", PATH, json=RTSP, headers=headers)
    if there:
        assert answer.status_code == 202, answer.text
    else:
        problem(answer, 403, "forbidden")
        assert api.orchestrator.submitted == []
    assert (await api("GET", "/api/v1/frames", headers=headers)).status_code == 200
