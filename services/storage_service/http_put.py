"""HTTP PUTs of bodies in memory from the event loop: asyncio's transports, kept connections, httptools' parser.

0.06 ms of CPU a PUT of 178 KB in the client; h11 0.29, aiohttp 0.32, boto3 in a thread some 6 (docs/performance.md).
Only as much of HTTP/1.1 as S3's PUT takes: no redirects, proxies or compression (docs/libraries.md).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

_MAX_ANSWER = 65_536  # bytes of an answer's body: an error's XML
_IN_ONE_PIECE = 1_048_576  # bytes; a larger body is written in pieces, each with a time of its own
_PIECE = 65_536
_IDLE_SECONDS = 15.0  # after which a connection is not used again: servers and what is between close idle ones


class PutAnswer(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


class ConnectionBroken(Exception):
    """The connection ended, or what came was no HTTP. `fresh`: it had not carried an earlier request."""

    def __init__(self, fresh: bool) -> None:
        self.fresh = fresh
        super().__init__("the connection was closed before there was an answer")


class CannotConnect(Exception):
    """There is nobody, or nobody who proves to be who he should be."""


class Timeout(Exception):
    """`connecting`: no connection in time; else the server did not take the body or did not answer in time."""

    def __init__(self, connecting: bool) -> None:
        self.connecting = connecting
        super().__init__("no connection in time" if connecting else "no answer in time")


class _Connection(asyncio.Protocol):
    """One request at a time."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.used = 0  # requests that it has carried
        self.idle_since = 0.0
        self.closed = False
        self._answered: asyncio.Future[PutAnswer] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._paused = False

    async def exchange(self, head: bytes, body: bytes, write_timeout: float, read_timeout: float) -> PutAnswer:
        """Raises ConnectionBroken, Timeout."""
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._size = 0
        self._headed = False
        self._parser = httptools.HttpResponseParser(self)
        answered: asyncio.Future[PutAnswer] = asyncio.get_running_loop().create_future()
        self._answered = answered
        try:
            if len(body) <= _IN_ONE_PIECE:
                self.transport.writelines([head, body])
                await self._taken(write_timeout)
            else:
                self.transport.write(head)
                whole = memoryview(body)
                for at in range(0, len(body), _PIECE):
                    if answered.done():  # refused before it was all sent
                        break
                    self.transport.write(whole[at : at + _PIECE])
                    await self._taken(write_timeout)
            async with asyncio.timeout(read_timeout):
                return await answered
        except TimeoutError:
            raise Timeout(connecting=False) from None
        finally:
            if self._paused or not answered.done():
                self.transport.abort()
                self.closed = True
            if answered.done() and not answered.cancelled():
                answered.exception()
            self._answered = None
            self.used += 1

    @property
    def usable(self) -> bool:
        return not self.closed and not self.transport.is_closing()

    async def _taken(self, timeout: float) -> None:
        """Returns when the kernel has nearly all that was written, or there is an answer."""
        if not self._paused:
            return
        assert self._answered is not None
        self._drained = asyncio.get_running_loop().create_future()
        try:
            done, _ = await asyncio.wait(
                (self._drained, self._answered), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise TimeoutError
        finally:
            self._drained = None

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._answered is None or self._answered.done():  # nobody asked
            self.closed = True
            self.transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._break()
            self.transport.abort()

    def eof_received(self) -> None:
        self.closed = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._break()

    def _break(self) -> None:
        self.closed = True
        if (
            self._answered is not None
            and self._headed
            and not self._headers.keys() & {"content-length", "transfer-encoding"}
        ):
            self.on_message_complete()  # HTTP/1.0: the body ends with the connection
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionBroken(fresh=not self.used))

    # The parser's callbacks.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._headed = True

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= _MAX_ANSWER:
            self._parts.append(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue, which nobody asked for: the answer comes after it
            self._headers, self._headed = {}, False
            return
        if not self._parser.should_keep_alive() or self._size > _MAX_ANSWER:
            self.closed = True
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(PutAnswer(status, self._headers, b"".join(self._parts)))


class PutConnections:
    """At most `connections` to one server; who waits for one is served in order. Belongs to one event loop."""

    def __init__(
        self, endpoint: str, connections: int, timeouts: tuple[float, float], context: ssl.SSLContext | None
    ) -> None:
        """`timeouts`: to connect and for each write, for an answer; seconds. `context`: with https."""
        parts = urlsplit(endpoint)
        self._host = parts.hostname or ""
        self._port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        self._timeouts, self._context = timeouts, context
        self._places = asyncio.Semaphore(connections)
        self._idle: list[_Connection] = []

    async def put(self, head: bytes, body: bytes) -> PutAnswer:
        """One exchange. A kept connection that the server has just closed is no failure: it is made again.

        Raises CannotConnect, Timeout, ConnectionBroken.
        """
        async with self._places:
            connection = self._kept() or await self._connect()
            try:
                return await self._on(connection, head, body)
            except ConnectionBroken as error:
                if error.fresh:
                    raise
            return await self._on(await self._connect(), head, body)

    async def _on(self, connection: _Connection, head: bytes, body: bytes) -> PutAnswer:
        answer = await connection.exchange(head, body, *self._timeouts)
        if connection.usable:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.transport.abort()
        return answer

    def _kept(self) -> _Connection | None:
        oldest = time.monotonic() - _IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()  # the one used last
            if connection.usable and connection.idle_since > oldest:
                return connection
            connection.transport.abort()
        return None

    async def _connect(self) -> _Connection:
        try:
            async with asyncio.timeout(self._timeouts[0]):
                _, connection = await asyncio.get_running_loop().create_connection(
                    _Connection, self._host, self._port, ssl=self._context,
                    server_hostname=self._host if self._context else None,
                )  # fmt: skip
        except TimeoutError:
            raise Timeout(connecting=True) from None
        except OSError as error:  # refused, unknown, or no certificate that is trusted
            raise CannotConnect from error
        raw = connection.transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection

    def close(self) -> None:
        """Closes what is idle. Repeating it is fine."""
        for connection in self._idle:
            connection.transport.abort()
        self._idle.clear()
