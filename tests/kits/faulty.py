"""A store or database that is killed, hangs, or answers 503, as its clients see it: a proxy before the real one."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Literal
from urllib.parse import urlsplit

from config import DbSettings, StorageSettings
from tests.conftest import Backends
from tests.kits.tcp_proxy import TcpProxy

Fault = Literal["killed", "hung", "503"]
_SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>no</Message></Error>"
_ANSWER = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: " + str(len(_SLOW_DOWN)).encode() + b"\r\n\r\n" + _SLOW_DOWN
)


class FaultyProxy(TcpProxy):
    """`fail` and `heal` act on connections that are open too; may be called from any thread."""

    def __init__(self, host: str, port: int) -> None:
        """`host` may be the folder of a PostgreSQL's socket."""
        super().__init__(host, port)
        self._fault: Fault | None = None

    def fail(self, fault: Fault) -> None:
        self._fault = fault
        if fault == "hung":
            self.stall()
        else:
            self._loop.call_soon_threadsafe(self._cut_all)

    def heal(self) -> None:
        self._fault = None
        self.go_on()

    def _cut_all(self) -> None:
        for link in self._links:
            link.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._fault == "killed":
            writer.transport.abort()
        elif self._fault == "503":
            with contextlib.suppress(OSError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(_ANSWER)
                await writer.drain()
                while await asyncio.wait_for(reader.read(65536), 2):
                    pass
            writer.close()
        else:
            with contextlib.suppress(asyncio.CancelledError):
                await super()._serve(reader, writer)


def store_proxy(storage: StorageSettings) -> FaultyProxy:
    endpoint = storage.ENDPOINT
    address = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    return FaultyProxy(address.hostname or "127.0.0.1", address.port or 80)


def database_proxy(db: DbSettings) -> FaultyProxy:
    return FaultyProxy(db.HOST, db.PORT)


def behind(backends: Backends, store: FaultyProxy | None = None, database: FaultyProxy | None = None) -> Backends:
    """The same servers, reached through proxies."""
    if store is not None:
        backends = replace(backends, storage=backends.storage.model_copy(update={"ENDPOINT": f"127.0.0.1:{store.port}"}))
    if database is not None:
        update = {"HOST": "127.0.0.1", "PORT": database.port, "SSL": "disable"}
        backends = replace(backends, db=backends.db.model_copy(update=update))
    return backends
