"""How the application is served: the listening socket, uvicorn with bounded heads, and the stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.http.state import AppState
from config import Settings
from utils.ids import new_id
from utils.logger import get_logger
from utils.memory import few_arenas

log = get_logger(__name__)

MAX_HEAD_BYTES = 65_536
HEAD_TIMEOUT = 30.0  # seconds from connecting, or from the first byte, to the end of the headers
KEEP_ALIVE = 65  # seconds; longer than usual proxies and clients keep theirs, so that they close first
_REPEATED_SIGNAL = 0.5  # seconds; supervisors signal the group and then the process: that is one wish, not two
_STOP_GRACE = 5.0  # seconds beyond API__SHUTDOWN_TIMEOUT after which the process leaves whatever hangs


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's own parser has no limit on the size of a request's head, nor on the time it takes to come."""

    _head_bytes = 0
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._start_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and self.parser is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("The request's headers are larger than this service takes.")

    def send_400_response(self, msg: str) -> None:
        """A problem, as every other error: the application never sees such a request."""
        self._end_head()
        request_id = str(new_id())
        log.warning("bad_http", request_id=request_id)
        body = json.dumps(
            {
                "type": "about:blank", "title": "Malformed request", "status": 400, "code": "malformed_request",
                "detail": msg, "instance": "", "trace_id": request_id, "retryable": False, "errors": [],
            }
        ).encode()  # fmt: skip
        head = (
            "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nX-Request-ID: {request_id}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _start_head(self) -> None:
        self._end_head()
        self._in_head, self._head_bytes = True, 0
        self._head_timer = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, self._head_too_slow)

    def _end_head(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    """Leaves signals to `run`: they must count during start-up too, and end with a clean exit code."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """The socket, bound but not yet listening. Raises OSError."""
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = min(infos, key=lambda info: info[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # there it would let two processes share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


class _Stop:
    """Signals to a stop: the first begins it, another one later leaves at once."""

    def __init__(self, server: uvicorn.Server, state: AppState, loop: asyncio.AbstractEventLoop) -> None:
        self._server, self._state, self._loop = server, state, loop
        self._first: float | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self._server.should_exit = True
            limit = self._state.settings.API.SHUTDOWN_TIMEOUT + _STOP_GRACE
            watchdog = threading.Timer(limit, self._leave, ["The stop took too long."])
            watchdog.daemon = True
            watchdog.start()
            self._loop.call_soon_threadsafe(self._begin, signal.Signals(number).name)
        elif now - self._first > _REPEATED_SIGNAL:
            self._leave("Stopped by a second signal.")

    def _begin(self, name: str) -> None:
        log.info("stopping", signal=name)
        self._state.stopping.set()

    @staticmethod
    def _leave(reason: str) -> None:
        # Nothing that was acknowledged is lost: the same as a crash, which every part recovers from.
        os.write(2, f"{reason}\n".encode())
        os._exit(1)


async def _serve(app: FastAPI, config: uvicorn.Config, listener: socket.socket) -> None:
    state: AppState = app.state.trackshift
    server = _Server(config)
    stop: Any = _Stop(server, state, asyncio.get_running_loop())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    # The lifespan is entered here, not by uvicorn, which would print a traceback for every failed start.
    async with app.router.lifespan_context(app):
        listener.listen(config.backlog)  # a client that waits for the line below can connect
        host, port = listener.getsockname()[:2]
        log.info("listening", host=host, port=port, url=f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await server.serve(sockets=[listener])
    log.info("stopped")


def serve(app: FastAPI, settings: Settings, listener: socket.socket) -> None:
    """Serves until a signal. Raises what the start raises."""
    few_arenas()
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # uvicorn would trust every client on loopback; API__TRUSTED_PROXIES names those to trust
        timeout_keep_alive=KEEP_ALIVE,
        # Half for requests under way, the rest for captures and the embedded parts.
        timeout_graceful_shutdown=max(1, int(settings.API.SHUTDOWN_TIMEOUT / 2)),
    )
    with asyncio.Runner(debug=settings.DEBUG, loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(app, config, listener))
