"""How the application is served: the listening socket, uvicorn with bounds on its connections, and the stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.server import ServerState

from api.http.connections import CHECK_INTERVAL, KEPT_FILES, SPARE, Connections, most_connections
from api.http.pace import answer_pace
from api.http.protocol import KEEP_ALIVE, BoundedProtocol
from api.http.socket_protocol import PING_INTERVAL, PING_TIMEOUT, BoundedSocket
from api.http.state import AppState, Stopping
from config import Settings
from utils.logger import Throttle, get_logger
from utils.memory import few_arenas, keep_large_blocks

log = get_logger(__name__)

Ready = Callable[[Callable[[], None]], None]  # is given, once the service listens, what stops it

_LOG_INTERVAL = 60.0  # seconds between two log lines about connections that were closed for one reason
_REPEATED_SIGNAL = 0.5  # seconds; supervisors signal the group and then the process: that is one wish, not two
_STOP_GRACE = 5.0  # seconds beyond API__SHUTDOWN_TIMEOUT after which the process leaves whatever hangs


class _Dated(ServerState):
    """Makes the Date header when an answer needs it, once a second at most."""

    def __init__(self) -> None:
        self._second, self._dated = 0, list[tuple[bytes, bytes]]()
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        if (now := int(time.time())) != self._second:
            self._second, self._dated = now, [(b"date", formatdate(now, usegmt=True).encode())]
        return self._dated

    @default_headers.setter
    def default_headers(self, _: list[tuple[bytes, bytes]]) -> None:
        """uvicorn sets it at the start."""


class _Server(uvicorn.Server):
    """Leaves signals to `run`: they must count during start-up too, and end with a clean exit code.

    uvicorn's own loop looks ten times a second whether it shall end, and makes the Date header: a tenth of what an idle
    process took. Here the stop wakes it.
    """

    def __init__(self, config: uvicorn.Config, stopping: Stopping) -> None:
        super().__init__(config)
        self.server_state = _Dated()
        self._stopping = stopping

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self._stopping.wait()


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """The socket, bound but not yet listening; `shared`: other processes listen on the port too. Raises OSError."""
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = min(infos, key=lambda info: info[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # there it would let two processes share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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
            watchdog = threading.Timer(limit, self._exit, ["The stop took too long."])
            watchdog.daemon = True
            watchdog.start()
            self._loop.call_soon_threadsafe(self._begin, signal.Signals(number).name)
        elif now - self._first > _REPEATED_SIGNAL:
            self._exit("Stopped by a second signal.")

    def _begin(self, name: str) -> None:
        log.info("stopping", signal=name)
        self._state.stopping.set()
        if self._state.services is not None:
            self._state.services.membership.stopping()

    @staticmethod
    def _exit(reason: str) -> None:
        # Nothing that was acknowledged is lost: the same as a crash, which every part recovers from.
        os.write(2, f"{reason}\n".encode())
        os._exit(1)


def _open_files(wanted: int) -> int:
    """As many as this process may open: `wanted`, where its hard limit allows that."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return raised


async def _watch(connections: Connections) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        await connections.some.wait()
        await asyncio.sleep(CHECK_INTERVAL)
        connections.check(clock())


async def _serve(
    app: FastAPI, config: uvicorn.Config, listener: socket.socket, connections: Connections, ready: Ready | None
) -> None:
    state: AppState = app.state.trackshift
    server = _Server(config, state.stopping)
    if not state.settings.API.PORT:  # a free one was taken: the services are told which
        api = state.settings.API.model_copy(update={"PORT": listener.getsockname()[1]})
        state.settings = state.settings.model_copy(update={"API": api})
    stop: Any = _Stop(server, state, asyncio.get_running_loop())
    for number in (signal.SIGINT, signal.SIGTERM) if ready is None else ():
        signal.signal(number, stop)
    # The lifespan is entered here, not by uvicorn, which would print a traceback for every failed start.
    async with app.router.lifespan_context(app):
        listener.listen(config.backlog)  # a client that waits for the line below can connect
        host, port = listener.getsockname()[:2]
        log.info("listening", host=host, port=port, url=f"http://{f'[{host}]' if ':' in host else host}:{port}")
        if ready is not None:
            ready(partial(stop, signal.SIGTERM, None))
        watch = asyncio.create_task(_watch(connections))
        try:
            await server.serve(sockets=[listener])
        finally:
            watch.cancel()
    log.info("stopped")


def serve(app: FastAPI, settings: Settings, listener: socket.socket, ready: Ready | None = None) -> None:
    """Serves until a signal; in a thread, until what `ready` was given is called. Raises what the start raises."""
    few_arenas()
    keep_large_blocks()
    api = settings.API
    files = _open_files(api.MAX_CONNECTIONS + SPARE + KEPT_FILES)
    connections = Connections(most_connections(api.MAX_CONNECTIONS, files), api.MAX_UNREAD, answer_pace(api))
    throttle = Throttle(_LOG_INTERVAL, time.monotonic)
    config = uvicorn.Config(
        app,
        http=partial(BoundedProtocol, connections, throttle),  # type: ignore[arg-type]
        ws=partial(BoundedSocket, connections, throttle),  # type: ignore[arg-type]
        ws_ping_interval=PING_INTERVAL,
        ws_ping_timeout=PING_TIMEOUT,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # uvicorn would trust every client on loopback; API__TRUSTED_PROXIES names those to trust
        timeout_keep_alive=KEEP_ALIVE,
        # Half for requests under way, the rest for captures and the embedded parts.
        timeout_graceful_shutdown=max(1, int(api.SHUTDOWN_TIMEOUT / 2)),
    )
    with asyncio.Runner(debug=settings.DEBUG, loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(app, config, listener, connections, ready))
