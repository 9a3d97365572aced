"""Proxies that cut at exactly one place: before, at or after a COMMIT; or in front of anything, all at once."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from config import DbSettings

_SSL_REQUEST = 80877103


async def _untyped(reader: asyncio.StreamReader) -> bytes:
    """A message of the start, which has no type."""
    size = await reader.readexactly(4)
    return size + await reader.readexactly(struct.unpack("!i", size)[0] - 4)


async def _connect(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if host.startswith("/"):
        return await asyncio.open_unix_connection(str(Path(host) / f".s.PGSQL.{port}"))
    return await asyncio.open_connection(host, port)


@dataclass(eq=False)
class _Link:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server_reader: asyncio.StreamReader
    server_writer: asyncio.StreamWriter
    marked: bool = False  # the marker went by since the last COMMIT
    muted: bool = False  # the server's answers are swallowed
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def abort(self) -> None:
        self.writer.transport.abort()
        self.server_writer.transport.abort()


Action = Callable[[_Link, bytes], Awaitable[None]]


async def before(link: _Link, _commit: bytes) -> None:
    """The COMMIT never reaches the server, which rolls back."""
    link.abort()


async def after(link: _Link, commit: bytes) -> None:
    """It is committed; the client is never told."""
    link.muted = True
    link.answered.clear()
    link.server_writer.write(commit)
    await link.answered.wait()
    link.abort()


async def late(link: _Link, commit: bytes) -> None:
    """The client sees its connection cut; the COMMIT arrives half a second after that."""
    link.muted = True
    link.writer.transport.abort()
    await asyncio.sleep(0.5)
    link.answered.clear()
    link.server_writer.write(commit)
    await link.answered.wait()
    link.abort()


def then(do: Callable[[], None], action: Action) -> Action:
    """First the action, then `do` (a SIGKILL, say)."""

    async def both(link: _Link, commit: bytes) -> None:
        await action(link, commit)
        do()

    return both


class CommitProxy:
    """Acts on COMMITs of transactions that carry `marker` in a statement's arguments, by `plan`, one action each.

    `at_statement` acts on the first statement with the marker, which may be a transaction by itself.
    """

    def __init__(self, db: DbSettings) -> None:
        self._backend = (db.HOST, db.PORT)
        self.marker = b""
        self.plan: list[Action] = []
        self.at_statement: Action | None = None
        self.port = 0
        self._links: set[asyncio.Task[None]] = set()

    def arm(self, marker: str, *plan: Action, at_statement: Action | None = None) -> None:
        self.marker, self.plan, self.at_statement = marker.encode(), list(plan), at_statement

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[CommitProxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._links:
                task.cancel()
            await asyncio.gather(*self._links, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        link = _Link(reader, writer, *await _connect(*self._backend))
        pumps = [asyncio.ensure_future(self._client(link)), asyncio.ensure_future(self._server(link))]
        try:
            await asyncio.wait(pumps)
        except asyncio.CancelledError:
            pass  # the proxy ends; streams would report the cancelling as an error
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            link.abort()
            self._links.discard(task)

    async def _client(self, link: _Link) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            start = await _untyped(link.reader)
            if struct.unpack("!i", start[4:8])[0] == _SSL_REQUEST:
                link.writer.write(b"N")
                start = await _untyped(link.reader)
            link.server_writer.write(start)
            while True:
                head = await link.reader.readexactly(5)
                message = head + await link.reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)
                link.marked |= bool(self.marker) and self.marker in message
                if message[:1] == b"Q" and message[5:].upper().startswith((b"COMMIT", b"ROLLBACK")):
                    marked, link.marked = link.marked and message[5:6].upper() == b"C", False
                    if marked and self.plan:
                        await self.plan.pop(0)(link, message)
                        return
                link.server_writer.write(message)
                await link.server_writer.drain()
                if message[:1] == b"S" and link.marked and (act := self.at_statement) is not None:  # Sync
                    self.at_statement = None
                    link.answered.clear()
                    await link.answered.wait()
                    await act(link, message)
        if not link.muted:
            link.abort()

    async def _server(self, link: _Link) -> None:
        with contextlib.suppress(OSError):
            while data := await link.server_reader.read(65536):
                link.answered.set()
                if not link.muted:
                    link.writer.write(data)
                    await link.writer.drain()
        link.answered.set()
        if not link.muted:
            link.abort()


class Gate:
    """A proxy that knows no protocol; shut, it refuses connections and cuts those it has; hung, nothing goes through."""

    def __init__(self, host: str, port: int) -> None:
        self._backend = (host, port)
        self._links: set[asyncio.StreamWriter] = set()
        self._open = True
        self._moving = asyncio.Event()
        self._moving.set()
        self.port = 0

    def hang(self) -> None:
        self._moving.clear()

    def shut(self) -> None:
        self._open = False
        for writer in self._links:
            writer.transport.abort()

    def open(self) -> None:
        self._open = True
        self._moving.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Gate]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.shut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        back_reader, back_writer = await _connect(*self._backend)
        self._links |= {writer, back_writer}
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pump(reader, back_writer), self._pump(back_reader, writer))
        self._links -= {writer, back_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._moving.wait()
            writer.write(data)
            await writer.drain()
        writer.transport.abort()
