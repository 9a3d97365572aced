"""The program of docs/integration.md before answers that a real service seldom gives: 401, 410, 503."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "integration.md").read_text("utf-8")
STORED_AT = "2026-05-04T10:30:00.000000Z"


def frame(name: str) -> dict[str, str]:
    return {"frame_id": name, "camera_id": "c", "timestamp": "t", "storage_path": "p", "stored_at": STORED_AT}


class Script(ThreadingHTTPServer):
    """Answers in order, (status, body) each, then 401; `asked` has path, query and credential of every request."""

    def __init__(self, answers: list[tuple[int, dict[str, Any]]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers
        self.asked: list[tuple[str, dict[str, list[str]], str | None]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Script

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.asked.append((parts.path, parse_qs(parts.query), self.headers["Authorization"]))
        refusal = (401, {"code": "unauthorized", "detail": "No."})
        status, body = self.server.answers.pop(0) if self.server.answers else refusal
        self.send_response(status)
        if status == 503:
            self.send_header("Retry-After", "0.1")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def script(request: pytest.FixtureRequest) -> Iterator[Script]:
    server = Script(request.param)
    threading.Thread(target=server.serve_forever, args=(0.05,)).start()
    yield server
    server.shutdown()
    server.server_close()


def run(script: Script, folder: Path) -> subprocess.CompletedProcess[str]:
    code, _ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    url = f"http://127.0.0.1:{script.server_address[1]}/api/v1"
    return subprocess.run(
        [sys.executable, "-c", code, url, str(folder / "state")], capture_output=True, text=True, timeout=30, check=False,
        env={**os.environ, "TRACKSHIFT_KEY": "tsk_x"},
    )  # fmt: skip


GONE = (410, {"code": "cursor_expired", "detail": "Gone.", "oldest_cursor": "new.5"})


@pytest.mark.parametrize(
    "script",
    [
        [
            (503, {"code": "overloaded", "detail": "Later."}),
            (200, {"items": [{"data": frame("a")}], "next_cursor": "old.1"}),
            GONE,
            (200, {"items": [frame("b")], "next_cursor": "more"}),
            (200, {"items": [frame("c")], "next_cursor": None}),
        ]
    ],
    indirect=True,
)
def test_it_goes_on_after_503_finds_what_it_missed_after_410_and_stops_at_401(script: Script, tmp_path: Path) -> None:
    done = run(script, tmp_path)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["a", "b", "c"]
    assert done.returncode == 1
    assert "401 unauthorized: No." in done.stderr
    assert {credential for _, _, credential in script.asked} == {"Bearer tsk_x"}
    events = [query.get("after") for path, query, _ in script.asked if path.endswith("/events")]
    assert events == [None, None, ["old.1"], ["new.5"]]
    first, second = (query for path, query, _ in script.asked if path.endswith("/frames"))
    assert first["stored_from"] == second["stored_from"] == ["2026-05-04T10:25:00+00:00"]
    assert second["cursor"] == ["more"]
    assert json.loads((tmp_path / "state").read_text()) == ["new.5", STORED_AT]


@pytest.mark.parametrize("script", [[GONE, (200, {"items": [frame("a")], "next_cursor": None})]], indirect=True)
def test_without_a_last_frame_it_takes_all(script: Script, tmp_path: Path) -> None:
    (tmp_path / "state").write_text('["old.1", null]')
    assert run(script, tmp_path).stdout.startswith("a ")
    assert "stored_from" not in script.asked[1][1]
