"""Proxies that know enough of S3 and of PostgreSQL's protocol to break them at the worst moment.

Each runs in a thread of its own; faults are set from any thread and hold until they are healed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar

T = TypeVar("T")
_CHUNK = 65536


class Proxy:
    """`with Proxy(...) as proxy`: listens on loopback. `backend`: (host, port), or the path of a Unix socket."""

    def __init__(self, backend: tuple[str, int] | str) -> None:
        self._backend = backend
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._links: set[asyncio.Task[None]] = set()
        self.port = 0
        self.broken = 0  # connections or answers that the fault has broken

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut_all(self) -> None:
        """Cuts every connection that there is."""

        async def cut() -> None:
            for link in list(self._links):
                link.cancel()

        self._wait(cut())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        for link in list(self._links):
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._backend, str):
            return await asyncio.open_unix_connection(self._backend, limit=1 << 20)
        return await asyncio.open_connection(*self._backend, limit=1 << 20)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        writers = [writer]
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                back_reader, back_writer = await self._connect()
                writers.append(back_writer)
                there = asyncio.create_task(self._forth(reader, back_writer, writer))
                back = asyncio.create_task(self._back(back_reader, writer))
                try:
                    await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for each in (there, back):
                        each.cancel()
                    await asyncio.gather(there, back, return_exceptions=True)
        except asyncio.CancelledError:
            pass
        finally:
            self._links.discard(task)
            for each_writer in writers:
                each_writer.transport.abort()

    async def _forth(
        self, reader: asyncio.StreamReader, backend: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(_CHUNK):
            backend.write(data)
            await backend.drain()

    async def _back(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            client.write(data)
            await client.drain()


@dataclass(frozen=True, slots=True)
class S3Fault:
    """`kind`: an HTTP status with its S3 code ("503 SlowDown"), hang, cut_body, lose_answer. `share` of the PUTs."""

    kind: str
    share: float = 1.0


class S3Proxy(Proxy):
    """Breaks PUTs of pictures; everything else passes, but for a hang and an error status, which meet every call."""

    def __init__(self, backend: tuple[str, int]) -> None:
        super().__init__(backend)
        self.fault: S3Fault | None = None
        self._losing: set[asyncio.StreamWriter] = set()

    async def _forth(
        self, reader: asyncio.StreamReader, backend: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            method = lines[0].split(" ", 1)[0]
            fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            size = int(fields.get("content-length", "0"))
            fault = self.fault
            if fault is not None and random.random() >= fault.share:
                fault = None
            if fault is not None and fault.kind[0].isdigit():
                await self._refuse(client, fault.kind, method)
                return
            if fault is not None and fault.kind == "hang":
                self.broken += 1
                while self.fault is not None:
                    await asyncio.sleep(0.05)
                return
            if fault is not None and (method != "PUT" or not size):
                fault = None
            if fault is not None and fault.kind == "lose_answer":
                self._losing.add(client)
            backend.write(head)
            stop = size // 2 if fault is not None and fault.kind == "cut_body" else 0
            left = size
            while left > stop:
                data = await reader.read(min(_CHUNK, left - stop))
                if not data:
                    return
                left -= len(data)
                backend.write(data)
                await backend.drain()
            if stop:
                self.broken += 1
                return

    async def _back(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            if client in self._losing and not data.startswith(b"HTTP/1.1 100"):
                self._losing.discard(client)
                self.broken += 1
                return
            client.write(data)
            await client.drain()

    async def _refuse(self, client: asyncio.StreamWriter, kind: str, method: str) -> None:
        self.broken += 1
        status, code = kind.split(" ")
        body = b"" if method == "HEAD" else f"<Error><Code>{code}</Code><Message>fault</Message></Error>".encode()
        client.write(
            f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + body
        )
        await client.drain()
        await asyncio.sleep(0.05)  # a client that is still sending its body reads the answer first


class PostgresProxy(Proxy):
    """Cuts connections around what a client sends.

    `cut`: None; "before": when a statement that holds `pattern` comes, it is not passed on; "after": it is, and its
    answer is not. `share`: of those statements, beyond the next `sure` ones, which are cut in any case.
    """

    def __init__(self, backend: tuple[str, int] | str) -> None:
        super().__init__(backend)
        self.cut: str | None = None
        self.pattern = b"COMMIT"
        self.share = 1.0
        self.sure = 0
        self.stalled = False
        self._losing: set[asyncio.StreamWriter] = set()

    async def _forth(
        self, reader: asyncio.StreamReader, backend: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(_CHUNK):
            while self.stalled:
                await asyncio.sleep(0.02)
            if self.cut is not None and self.pattern in data and (self.sure > 0 or random.random() < self.share):
                self.sure -= 1
                self.broken += 1
                if self.cut == "before":
                    return
                self._losing.add(client)
            backend.write(data)
            await backend.drain()

    async def _back(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            while self.stalled:
                await asyncio.sleep(0.02)
            if client in self._losing:
                self._losing.discard(client)
                return
            client.write(data)
            await client.drain()
