"""StorageService against servers that behave badly: plain sockets of this process."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from config import StorageSettings
from services.storage_service.service import StorageService
from utils.exceptions import StorageFull, StorageUnavailable


@contextmanager
def serving(
    handler: Callable[[BaseHTTPRequestHandler, bytes], tuple[int, dict[str, str], bytes]],
    pace: float = 0,
    tls: ssl.SSLContext | None = None,
) -> Iterator[str]:
    """`handler` answers each request; `pace`: seconds of pause for each 64 KiB of body that is read."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            left, body = int(self.headers.get("Content-Length") or 0), b""
            while left > 0 and (chunk := self.rfile.read(min(left, 65_536))):
                body, left = body + chunk, left - len(chunk)
                time.sleep(pace)
            status, headers, answer = handler(self, body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _any  # noqa: N815

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@asynccontextmanager
async def service(endpoint: str, **changes: Any) -> AsyncIterator[StorageService]:
    settings = StorageSettings(**{"CONNECT_TIMEOUT": 0.5, "READ_TIMEOUT": 0.5, "MAX_ATTEMPTS": 1, **changes})
    storage = StorageService(settings, endpoint, "AKIDSECRET", "sk-very-secret")
    try:
        yield storage
    finally:
        await storage.close()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_a_server_that_compares_no_checksum_gets_signed_payloads() -> None:
    seen: list[str] = []

    def answer(request: BaseHTTPRequestHandler, _: bytes) -> tuple[int, dict[str, str], bytes]:
        seen.append(str(request.headers["x-amz-content-sha256"]))
        return 200, {"ETag": '"x"'}, b""

    with serving(answer) as endpoint:
        async with service(endpoint) as storage:
            await storage.put("a", b"one", "image/jpeg", digest(b"one"))
            await storage.put("b", b"two", "image/jpeg", digest(b"two"))
    assert seen == ["UNSIGNED-PAYLOAD", digest(b"one"), digest(b"two")]


async def test_a_large_put_may_take_longer_than_the_connect_timeout() -> None:
    """urllib3 gives a body that is sent in one piece CONNECT_TIMEOUT for all of it."""
    data = os.urandom(12_000_000)
    sums: list[str] = []

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        sums.append(digest(body))
        return 200, {"x-amz-checksum-sha256": str(request.headers["x-amz-checksum-sha256"])}, b""

    with serving(answer, pace=0.008) as endpoint:  # 1.5 s in all
        async with service(endpoint, READ_TIMEOUT=4) as storage:
            await storage.put("a", data, "image/jpeg", digest(data))
    assert sums == [digest(data)]


@pytest.mark.parametrize(("status", "code"), [(507, "XMinioStorageFull"), (507, "Other"), (400, "XMinioStorageFull")])
async def test_a_full_store_says_so(status: int, code: str) -> None:
    def answer(*_: Any) -> tuple[int, dict[str, str], bytes]:
        return status, {}, f"<Error><Code>{code}</Code><Message>no space</Message></Error>".encode()

    with serving(answer) as endpoint:
        async with service(endpoint) as storage:
            with pytest.raises(StorageFull) as caught:
                await storage.put("a", b"x", "image/jpeg", digest(b"x"))
    assert (caught.value.code, caught.value.retryable) == ("disk_full", True)


async def test_a_marker_is_written_where_conditions_are_not_known() -> None:
    """501 for If-None-Match: the object is looked for, then written without."""
    kept: dict[str, bytes] = {}

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if request.command == "PUT" and request.headers.get("If-None-Match"):
            return 501, {}, b"<Error><Code>NotImplemented</Code></Error>"
        if request.command == "PUT":
            kept[request.path] = body
        elif request.command == "HEAD" and request.path not in kept and request.path.count("/") > 1:
            return 404, {}, b""
        return 200, {"ETag": '"x"', "Last-Modified": "Mon, 04 May 2026 13:30:00 GMT"}, b""

    with serving(answer) as endpoint:
        async with service(endpoint) as storage:
            for data in (b"first", b"second"):
                await storage.put_if_absent("m", data, "application/json")
    assert [value for value in kept.values() if b"first" in value or b"second" in value] == list(kept.values())
    assert b"first" in next(iter(kept.values()))


async def test_attempts_are_counted_in_all() -> None:
    calls: list[str] = []

    def answer(request: BaseHTTPRequestHandler, _: bytes) -> tuple[int, dict[str, str], bytes]:
        calls.append(request.command)
        return 503, {}, b"<Error><Code>SlowDown</Code><Message>sk-very-secret</Message></Error>"

    with serving(answer) as endpoint:
        async with service(endpoint, MAX_ATTEMPTS=2) as storage:
            with pytest.raises(StorageUnavailable) as caught:
                await storage.put("a", b"x", "image/jpeg", digest(b"x"))
    assert len(calls) == 2
    assert caught.value.details == {"operation": "put", "error_code": "SlowDown"}


async def test_a_silent_server_costs_the_read_timeout_and_check_two_seconds() -> None:
    release = threading.Event()

    def answer(*_: Any) -> tuple[int, dict[str, str], bytes]:
        release.wait(10)
        return 200, {}, b""

    with serving(answer) as endpoint:
        async with service(endpoint, THREADS=1) as storage:
            started = time.monotonic()
            with pytest.raises(StorageUnavailable):
                await storage.get("a")
            assert time.monotonic() - started < 2
        async with service(endpoint, THREADS=1, READ_TIMEOUT=5) as storage:
            hanging = asyncio.create_task(storage.get("a"))
            await asyncio.sleep(0.05)
            started = time.monotonic()
            with pytest.raises(StorageUnavailable):  # its own thread: not behind the hanging get
                await storage.check()
            assert time.monotonic() - started < 2.2
            release.set()
            await asyncio.gather(hanging, return_exceptions=True)


async def test_a_body_that_breaks_off_is_unavailable() -> None:
    def answer(request: BaseHTTPRequestHandler, _: bytes) -> tuple[int, dict[str, str], bytes]:
        request.close_connection = True
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b"x" * 10)
        request.wfile.flush()
        request.connection.close()
        raise ConnectionAbortedError

    with serving(answer) as endpoint:
        async with service(endpoint) as storage:
            with pytest.raises(StorageUnavailable):
                await storage.get("a")
            with pytest.raises(StorageUnavailable):
                _ = [chunk async for chunk in storage.read_range("a", 0, 1000)]


async def test_calls_after_and_waiting_at_close_are_unavailable() -> None:
    release = threading.Event()

    def answer(*_: Any) -> tuple[int, dict[str, str], bytes]:
        release.wait(10)
        return 404, {}, b""

    with serving(answer) as endpoint:
        async with service(endpoint, THREADS=1, READ_TIMEOUT=5) as storage:
            calls = [asyncio.create_task(storage.get(f"k{i}")) for i in range(4)]
            await asyncio.sleep(0.1)
            closing = asyncio.create_task(storage.close())
            await asyncio.sleep(0.05)
            release.set()
            await closing
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(outcome).__name__ for outcome in outcomes[1:]] == ["StorageUnavailable"] * 3
            for call in (
                storage.get("a"),
                storage.put("a", b"", "image/png", "00"),
                storage.check(),
                storage.ensure_bucket(),
            ):
                with pytest.raises(StorageUnavailable):
                    await call
            await storage.close()


async def test_a_cancelled_call_stays_cancelled() -> None:
    release = threading.Event()

    def answer(*_: Any) -> tuple[int, dict[str, str], bytes]:
        release.wait(10)
        return 200, {}, b""

    with serving(answer) as endpoint:
        async with service(endpoint) as storage:
            task = asyncio.create_task(storage.get("a"))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            release.set()


async def test_a_file_that_is_gone_is_unavailable(tmp_path: Any) -> None:
    async with service("127.0.0.1:1") as storage:
        with pytest.raises(StorageUnavailable):
            await storage.put_file("a", tmp_path / "none", 1, "image/png", digest(b"x"))
