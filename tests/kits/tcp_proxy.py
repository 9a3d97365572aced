"""A TCP proxy that knows no protocol: it stalls, slows down, or cuts a connection in the middle of anything."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

T = TypeVar("T")


class TcpProxy:
    """`with TcpProxy("127.0.0.1", port) as proxy`; in a thread of its own, its methods may be called from any other."""

    def __init__(self, host: str, port: int, listen: str = "127.0.0.1", listen_port: int = 0) -> None:
        self._backend = (host, port)
        self._listen_at = (listen, listen_port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._flow = asyncio.Event()
        self._flow.set()
        self._cuts: list[int] = []
        self._links: set[asyncio.Task[None]] = set()
        self.deaf_after: int | None = None  # connections beyond this many are accepted, and nothing comes of them
        self.delay = 0.0  # s before an answer's bytes are passed on
        self.port = 0
        self.total = 0  # connections accepted
        self.cut = 0  # connections cut

    def stall(self) -> None:
        """Pass nothing on, in either direction; connections stay open and are accepted."""
        self._loop.call_soon_threadsafe(self._flow.clear)

    def go_on(self) -> None:
        self._loop.call_soon_threadsafe(self._flow.set)

    def cut_after(self, *sizes: int) -> None:
        """Each of the next connections that receives so many bytes is cut right there; one size a connection."""
        self._cuts = list(sizes)

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, *self._listen_at)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        self.total += 1
        writers = [writer]
        number = self.total
        try:
            if self.deaf_after is not None and number > self.deaf_after:
                while await reader.read(65536):
                    pass
                return
            with contextlib.suppress(OSError):
                back_reader, back_writer = await self._connect()
                writers.append(back_writer)
                pumps = [
                    asyncio.ensure_future(self._pump(reader, back_writer, 0.0)),
                    asyncio.ensure_future(self._pump(back_reader, writer, None)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            self._links.discard(task)
            for each in writers:
                each.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self._backend
        if host.startswith("/"):  # the folder of PostgreSQL's socket
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float | None) -> None:
        passed = 0
        while data := await reader.read(65536):
            await self._flow.wait()
            await asyncio.sleep(self.delay if delay is None else delay)
            if delay is None and self._cuts and passed + len(data) >= self._cuts[0]:
                writer.write(data[: self._cuts.pop(0) - passed])
                await writer.drain()
                writer.close()
                self.cut += 1
                return
            passed += len(data)
            writer.write(data)
            await writer.drain()
