"""The served process: start-up errors, signals, early refusals, bounded heads. Services are fakes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from contextlib import asynccontextmanager
from types import SimpleNamespace
from main import create_app
from api.server import bind, serve
from config import Settings
from tests.unit.api.support import FakeDirect, FakeHealth, FakeOrchestrator, FakeQueries
from utils.logger import configure_logging

@asynccontextmanager
async def fakes(settings):
    yield SimpleNamespace(
        settings=settings, orchestrator=FakeOrchestrator(), queries=FakeQueries(), health=FakeHealth(), direct=FakeDirect(),
        access=None,
    )
    print("closed", flush=True)

settings = Settings(_env_file=None, DATA_DIR=sys.argv[1], API={{"PORT": 0, "SHUTDOWN_TIMEOUT": 4}}, LOG={{"LEVEL": "INFO"}})
configure_logging()
serve(create_app(settings, open_services=fakes), settings, bind("127.0.0.1", 0))
"""


class Served:
    def __init__(self, folder: Path) -> None:
        script = folder / "serve.py"
        script.write_text(SCRIPT.format(root=str(ROOT)))
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(folder)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr
        for line in self.process.stderr:
            entry: dict[str, Any] = json.loads(line)
            if entry["event"] == "listening":
                self.port = int(entry["port"])
                break

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def ask(self, data: bytes) -> bytes:
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    found = b""
    try:
        while piece := connection.recv(65_536):
            found += piece
            head, blank, body = found.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            if blank and len(body) >= (int(length[1]) if length else 0):
                break
    except (TimeoutError, ConnectionResetError):
        pass
    return found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(tmp_path)
    yield server
    if server.process.poll() is None:
        server.process.kill()
    server.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_cleanly_and_waits_end_at_once(served: Served, number: signal.Signals) -> None:
    with served.connect() as waiting:
        body = b'{"camera_id": "c", "rtsp_url": "rtsp://127.0.0.1/x"}'
        waiting.sendall(
            b"POST /api/v1/ingest/rtsp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nPrefer: wait=50\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        time.sleep(0.5)
        began = time.monotonic()
        served.process.send_signal(number)
        time.sleep(0.05)
        served.process.send_signal(number)  # as a supervisor that signals the group and the process
        assert read_all(waiting).startswith(b"HTTP/1.1 202")
    out, err = served.process.communicate(timeout=20)
    assert served.process.returncode == 0, err
    assert "closed" in out
    assert time.monotonic() - began < 4
    assert "Traceback" not in err


def test_a_second_signal_forces(served: Served) -> None:
    with served.connect() as upload:  # keeps the stop waiting
        upload.sendall(
            b"POST /api/v1/ingest/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=B\r\n"
            b"Content-Length: 1000\r\n\r\n--B"
        )
        time.sleep(0.3)
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.8)
        assert served.process.poll() is None
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(timeout=5) == 1


def test_expect_100_continue_gets_the_refusal_not_the_100(served: Served) -> None:
    head = b"POST /api/v1/ingest/upload HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
    head += b"%s\r\nContent-Length: %d\r\n\r\n"
    multipart = b"Content-Type: multipart/form-data; boundary=B"
    assert served.ask(head % (b"Content-Type: text/plain", 10)).startswith(b"HTTP/1.1 415")
    assert served.ask(head % (multipart, 10**12)).startswith(b"HTTP/1.1 413")
    assert served.ask(head % (multipart, 10)).startswith(b"HTTP/1.1 100")


def test_heads_are_bounded_and_answered_with_a_problem(served: Served) -> None:
    answer = served.ask(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"h" * 400_000)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in answer
    assert b"X-Request-ID" in answer
    answer = served.ask(b"not http at all\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"malformed_request"' in answer
    answer = served.ask(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b'"alive"' in answer
    assert b"server:" not in answer.lower()


def test_settings_are_refused_by_name_never_by_value(tmp_path: Path) -> None:
    environment = {
        **os.environ, "API__PORT": "SECRETVALUE", "UPLOAD__EXIF_TIMEZONE": "SECRETVALUE/X", "LOG__LEVEL": "SECRETVALUE",
        "RTSP__ALLOWED_NETWORKS": '["SECRETVALUE"]', "API__NO_SUCH": "SECRETVALUE",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py")], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    for name in ("API__PORT", "UPLOAD__EXIF_TIMEZONE", "LOG__LEVEL", "RTSP__ALLOWED_NETWORKS:", "API__NO_SUCH"):
        assert name in done.stderr
    assert "SECRETVALUE" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_start_that_is_not_allowed_says_why(tmp_path: Path) -> None:
    environment = {**os.environ, "ENVIRONMENT": "production"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py")], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "DB__HOST is empty" in done.stderr
    assert "STORAGE__ENDPOINT is empty" in done.stderr


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = subprocess.run(
            [sys.executable, str(ROOT / "main.py")], cwd=tmp_path, env={**os.environ, "API__PORT": port},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    assert port in done.stderr
    assert "API__PORT" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()
