"""Memory of WebSockets that are open and idle, and how soon all of them are told of one event."""

from __future__ import annotations

import os
import socket
import time
from urllib.parse import urlsplit

import psutil

from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.harness import Cpu, Running, service
from tests.kits.service_support import jpeg

MANY = int(os.environ.get("SOCKETS", "10000"))  # fewer where `ulimit -n` is lower
_MASK = bytes(4)  # a mask of zeros changes nothing, and is as good as another one


def _opened(url: str, text: bytes) -> socket.socket:
    """A WebSocket that has subscribed, by hand: 10,000 connections of a library would measure the library."""
    parts = urlsplit(url)
    made = socket.create_connection((parts.hostname or "", parts.port or 80))
    made.sendall(
        b"GET /api/v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    answer = made.recv(4096)
    assert answer.startswith(b"HTTP/1.1 101"), answer[:200]
    made.sendall(bytes([0x81, 0x80 | len(text)]) + _MASK + text)
    assert b"subscribed" in made.recv(4096)
    return made


def _cpu(process: psutil.Process, seconds: float) -> float:
    """Milliseconds of CPU a second."""
    used = Cpu(process)
    time.sleep(seconds)
    return used.per_second()


def sockets(bench: Bench) -> None:
    """Resident memory a connection between the first and the last; then one upload, until the last socket has its event."""
    with service(bench.folder / "sockets", EVENTS__MAX_SOCKETS=50_000, API__MAX_CONNECTIONS=50_000) as running:
        text = b'{"op":"subscribe","id":"a","types":["frame.stored"]}'
        url = str(running.http.base_url)
        opened = [_opened(url, text) for _ in range(200)]  # what the first ones bring in is not theirs
        before = running.rss
        idle = _cpu(running.process, 5)
        opened += [_opened(url, text) for _ in range(MANY - 200)]
        each = (running.rss - before) / (MANY - 200) / 1000
        busy = _cpu(running.process, 20)
        bench.compare("memory of an idle WebSocket", "kB", [each], [], Goal("<=", 40), sockets=MANY)
        bench.compare("CPU of an idle WebSocket", "ms/s", [(busy - idle) / (MANY - 200)], [], Goal(), of_200=idle)
        bench.compare("one event to all of them", "s", [_told(running, opened)], [], Goal("<=", 1.0))
        for item in opened:
            item.close()


def _told(running: Running, opened: list[socket.socket]) -> float:
    """From the upload's answer until the socket that is read last has the event."""
    answer = running.http.post(
        "/api/v1/ingest/upload", data={"camera_id": "bench"}, files=[("files", ("a.jpg", jpeg(), "image/jpeg"))]
    )
    answer.raise_for_status()
    began = time.monotonic()
    for item in opened:
        while b"frame.stored" not in item.recv(65536):
            pass
    return time.monotonic() - began
