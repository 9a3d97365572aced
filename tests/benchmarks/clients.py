"""HTTP clients that cost little beside the server they ask: kept connections, one request at a time on each, raw bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from tests.benchmarks.harness import Cpu


class _Asking(asyncio.Protocol):
    """Asks again as soon as it is answered, until `until` (monotonic seconds)."""

    def __init__(self, requests: Sequence[bytes], until: float, status: int) -> None:
        self._requests, self._until, self._status = requests, until, f"HTTP/1.1 {status} ".encode()
        self._buffer, self._wanted = bytearray(), 0
        self.done = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        self._ask()

    def _ask(self) -> None:
        self._transport.write(self._requests[self.done % len(self._requests)])

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._wanted:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            if not self._buffer.startswith(self._status):
                self._end(RuntimeError(f"unexpected answer: {bytes(self._buffer[:400])!r}"))
                return
            self._wanted = end + 4 + int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(self._buffer) < self._wanted:
            return
        self._buffer.clear()
        self._wanted = 0
        self.done += 1
        if time.monotonic() < self._until:
            self._ask()
        else:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionError("the server closed the connection"))

    def _end(self, error: Exception | None) -> None:
        if not self.ended.done():
            if error is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(error)
        self._transport.close()


@dataclass
class Side:
    """One server, what it is asked for, and what it did in each round. `process`: whose CPU time is counted."""

    address: tuple[str, int]
    process: psutil.Process
    requests: Sequence[bytes]
    status: int = 200
    rates: list[float] = field(default_factory=list)  # requests a second
    cpu: list[float] = field(default_factory=list)  # milliseconds a request

    async def round(self, seconds: float, clients: int) -> None:
        """`clients` ask for `seconds`; each begins at another request of `requests`."""
        loop, used, began = asyncio.get_running_loop(), Cpu(self.process), time.monotonic()
        asking = []
        for each in range(clients):
            first = len(self.requests) * each // clients
            turned = [*self.requests[first:], *self.requests[:first]]
            made = _Asking(turned, began + seconds, self.status)
            await loop.create_connection(lambda made=made: made, *self.address)  # type: ignore[misc]
            asking.append(made)
        async with asyncio.timeout(seconds + 30):
            await asyncio.gather(*(each.ended for each in asking))
        done = sum(each.done for each in asking)
        self.rates.append(done / (time.monotonic() - began))
        self.cpu.append(used.seconds() / done * 1000)

    def forget(self) -> None:
        self.rates.clear()
        self.cpu.clear()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def post(path: str, body: bytes, content_type: str = "application/json") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
