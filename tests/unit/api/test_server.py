"""The served process: start-up errors, signals, early refusals, what connections may leave open. Services are fakes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from api.http.protocol import _Counted
from tests.kits.forked import Forked

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import json, sys
sys.path.insert(0, {root!r})
from contextlib import asynccontextmanager
from types import SimpleNamespace
from main import create_app
from api.http import protocol
from api.server import bind, serve
from config import Settings
from tests.unit.api.support import FakeDirect, FakeHealth, FakeOrchestrator, FakeQueries
from utils.logger import configure_logging

@asynccontextmanager
async def fakes(settings):
    yield SimpleNamespace(
        settings=settings, orchestrator=FakeOrchestrator(), queries=FakeQueries(), health=FakeHealth(), direct=FakeDirect(),
        access=None, membership=SimpleNamespace(stopping=lambda: None),
    )
    print("closed", flush=True)

given = json.loads(sys.argv[2])
for name, value in given.pop("constants", {{}}).items():
    setattr(protocol, name, value)
settings = Settings(
    _env_file=None, DATA_DIR=sys.argv[1], API={{"PORT": 0, "SHUTDOWN_TIMEOUT": 4, **given}}, LOG={{"LEVEL": "INFO"}}
)
configure_logging()
serve(create_app(settings, open_services=fakes), settings, bind("127.0.0.1", 0))
"""


class Served:
    """`settings`: of the group API; `constants`: of api.http.protocol."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        script = folder / "serve.py"
        script.write_text(SCRIPT.format(root=str(ROOT)))
        self.out, self.err = folder / "out", folder / "err"
        self.process = Forked(str(script), os.environ, self.out, self.err, (str(folder), json.dumps(settings)))
        deadline = time.monotonic() + 60
        while not (found := re.search(r'\{[^\n]*"listening"[^\n]*\}\n', self.said())):
            assert time.monotonic() < deadline, self.said()
            assert self.process.poll() is None, self.said()
            time.sleep(0.02)
        self.port = int(json.loads(found[0])["port"])

    def said(self) -> str:
        return self.err.read_text() if self.err.exists() else ""

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
    server.process.kill()
    server.process.wait(10)


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
    assert served.process.wait(20) == 0, served.said()
    assert time.monotonic() - began < 4
    assert "closed" in served.out.read_text()
    assert "Traceback" not in served.said()


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


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Short of patience, and of room: eight connections."""
    server = Served(
        tmp_path_factory.mktemp("strict"), BODY_TIMEOUT=1, MAX_CONNECTIONS=8,
        constants={"HEAD_TIMEOUT": 1.0, "REST_TIMEOUT": 1.0, "REFUSED_TIMEOUT": 1.0},
    )  # fmt: skip
    yield server
    server.process.kill()
    server.process.wait(10)


LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /api/v1/ingest/rtsp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n%s\r\n"
CHUNKED = POST % b"Transfer-Encoding: chunked\r\n"
ORDINARY = POST % b"Content-Length: 2\r\n" + b"{}"  # 422, where there is room to serve it
CAPTURE = b'{"camera_id": "c", "rtsp_url": "rtsp://127.0.0.1/x"}'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def pour(connection: socket.socket, *pieces: bytes) -> bytes:
    """Sends until all is sent or the other side has had enough; what it answers."""
    try:
        for piece in pieces:
            connection.sendall(piece)
    except OSError:
        pass
    return read_all(connection)


def closed_within(connection: socket.socket, seconds: float) -> bool:
    """Whether the other side ends the connection by then; what it sends is read and thrown away."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            if not connection.recv(1_048_576):
                return True
        except TimeoutError:
            return False
        except OSError:
            return True
    return False


def test_expect_100_continue_gets_the_refusal_not_the_100(strict: Served) -> None:
    head = b"POST /api/v1/ingest/upload HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
    head += b"%s\r\nContent-Length: %d\r\n\r\n"
    multipart = b"Content-Type: multipart/form-data; boundary=B"
    assert strict.ask(head % (b"Content-Type: text/plain", 10)).startswith(b"HTTP/1.1 415")
    assert strict.ask(head % (multipart, 10**12)).startswith(b"HTTP/1.1 413")
    assert strict.ask(head % (multipart, 10)).startswith(b"HTTP/1.1 100")


def test_heads_are_bounded_and_answered_with_a_problem(strict: Served) -> None:
    answer = strict.ask(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"h" * 400_000)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in answer
    assert b"X-Request-ID" in answer
    answer = strict.ask(b"not http at all\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"malformed_request"' in answer
    answer = strict.ask(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b'"alive"' in answer
    assert b"server:" not in answer.lower()


def test_trailers_are_bounded_and_no_headers(strict: Served) -> None:
    body = chunk(CAPTURE) + b"0\r\n"
    with strict.connect() as few:
        assert pour(few, CHUNKED, body, b"X-Request-ID: trailing\r\nPrefer: wait=50\r\n\r\n").startswith(b"HTTP/1.1 202")
    for trailers in (b"X: " + b"x" * 2_000_000, b"X: xxxxxxxxxxxxx\r\n" * 100_000):
        with strict.connect() as many:
            answer = pour(many, CHUNKED, body, trailers)
            assert not answer or answer.startswith(b"HTTP/1.1 400")  # a reset may overtake the answer
            assert closed_within(many, 5)
    assert strict.ask(LIVE).startswith(b"HTTP/1.1 200")


def test_chunk_headers_are_bounded(strict: Served) -> None:
    with strict.connect() as honest:  # a byte a chunk: five bytes about each
        assert pour(honest, CHUNKED, *(chunk(bytes([byte])) for byte in CAPTURE), b"0\r\n\r\n").startswith(b"HTTP/1.1 202")
    with strict.connect() as talks:
        answer = pour(talks, CHUNKED, b"1;" + b"x" * 400_000)
        assert not answer or answer.startswith(b"HTTP/1.1 400")
        assert closed_within(talks, 5)


def test_a_head_that_comes_in_one_piece_is_bounded_too(strict: Served) -> None:
    with strict.connect() as large:
        answer = pour(large, b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: " + b"h" * 100_000 + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400")


def test_connections_that_dawdle_are_closed(strict: Served) -> None:
    """Without a request, in a head, with line breaks for requests, with the rest of a body whose answer was given."""
    refused = POST.replace(b"application/json", b"text/plain") % b"Content-Length: 100000\r\n"
    for first, drop in ((b"", b""), (b"GET /health/live HT", b"T"), (LIVE, b"\r\n"), (refused, b"x")):
        with strict.connect() as dawdles:
            dawdles.sendall(first)
            began = time.monotonic()
            while time.monotonic() - began < 8:
                if closed_within(dawdles, 0.25):
                    break
                try:
                    dawdles.sendall(drop)
                except OSError:
                    break
            else:
                pytest.fail(f"still open after {first!r}")


def test_an_answer_that_nobody_reads_is_thrown_away(strict: Served) -> None:
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", strict.port))
        deaf.settimeout(10)
        page = b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        deaf.sendall(page * 20)  # 1.5 MB each: more than the kernel takes
        began = time.monotonic()
        while not _established(strict, deaf):  # not accepted yet
            assert time.monotonic() - began < 10
            time.sleep(0.01)
        while _established(strict, deaf) and time.monotonic() - began < 30:
            time.sleep(0.1)
        print(f"closed after {time.monotonic() - began:.1f} s")
        assert not _established(strict, deaf)
    assert strict.ask(LIVE).startswith(b"HTTP/1.1 200")


def _established(served: Served, peer: socket.socket) -> bool:
    port = peer.getsockname()[1]
    connections = psutil.Process(served.process.pid).net_connections("tcp")
    return any(item.raddr and item.raddr.port == port for item in connections)


def test_idle_connections_keep_nobody_out(strict: Served) -> None:
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(strict.connect())
        assert strict.ask(ORDINARY).startswith(b"HTTP/1.1 422")  # LIVE is answered beyond the bound as well


def test_with_all_connections_busy_others_are_told_so_and_operators_served(strict: Served) -> None:
    waits = (POST % b"Prefer: wait=50\r\nContent-Length: %d\r\n") % len(CAPTURE) + CAPTURE
    with ExitStack() as stack:
        for busy in [stack.enter_context(strict.connect()) for _ in range(8)]:
            busy.sendall(waits)
        deadline = time.monotonic() + 5
        while not (refused := strict.ask(ORDINARY)).startswith(b"HTTP/1.1 503"):
            assert time.monotonic() < deadline
        assert b'"overloaded"' in refused
        assert b"retry-after" in refused.lower()
        assert b"x-request-id" in refused.lower()
        assert strict.ask(LIVE).startswith(b"HTTP/1.1 200")
    deadline = time.monotonic() + 5
    while not strict.ask(ORDINARY).startswith(b"HTTP/1.1 422"):
        assert time.monotonic() < deadline


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


def test_head_and_body_of_an_answer_are_one_write() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.writes: list[bytes] = []

        def write(self, data: bytes) -> None:
            self.writes.append(data)

        def close(self) -> None:
            self.writes.append(b"closed")

        def get_write_buffer_size(self) -> int:
            return 0

    async def write() -> list[bytes]:
        recorder: Any = Recorder()
        counted = _Counted(recorder, asyncio.get_running_loop())
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"
        counted.write(head)
        assert (counted.get_write_buffer_size(), recorder.writes) == (len(head), [])
        counted.write(b"body")
        counted.write(b"HTTP/1.1 304 Not Modified\r\n\r\n")  # nothing follows
        await asyncio.sleep(0)
        counted.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        counted.close()
        await asyncio.sleep(0)
        assert counted.written == len(b"".join(recorder.writes)) - len(b"closed")
        return list(recorder.writes)

    assert [each[:12] for each in asyncio.run(write())] == [b"HTTP/1.1 200", b"HTTP/1.1 304", b"HTTP/1.1 204", b"closed"]
