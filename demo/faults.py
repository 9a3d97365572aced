"""A TCP proxy before an RTSP server that misbehaves as cameras and networks do.

Requests and answers pass unchanged: servers build their URLs from the request, so nothing needs rewriting. Only
RTSP over TCP is understood. The proxy runs in a thread of its own, and every method may be called from any other.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from demo.camera import free_port
from demo.challenge import Challenge, Scheme
from demo.wire import Request, parse_request, read_message, response

_T = TypeVar("_T")


class FaultProxy:
    """`with FaultProxy(camera.port) as proxy: ... proxy.url("cam1")`; faults hold until `clear()`."""

    def __init__(self, backend_port: int, *, port: int = 0, host: str = "127.0.0.1") -> None:
        self.host, self.port = host, port or free_port()
        self.total = 0  # connections accepted since the start
        self.lost = 0  # RTP packets dropped by `lose`
        self.requests: deque[Request] = deque(maxlen=1000)
        self._backend = backend_port
        self._links: dict[asyncio.StreamWriter, _Link] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._listener: asyncio.Server | None = None
        self._flow = asyncio.Event()
        self.clear()

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    @property
    def playing(self) -> int:
        """Open connections on which PLAY was passed on."""
        return sum(link.playing for link in list(self._links.values()))

    def url(self, name: str, userinfo: str = "") -> str:
        """The address of a stream through the proxy; `userinfo` is "user:password", percent-encoded."""
        return f"rtsp://{userinfo + '@' if userinfo else ''}{self.host}:{self.port}/{name}"

    # Faults.

    def clear(self) -> None:
        """End every fault but `refuse`."""
        self.challenge: Challenge | None = None
        self._answer: tuple[str, int, str, tuple[tuple[str, str], ...]] | None = None
        self._deaf = False
        self._rate: float | None = None
        self._lose = 0
        self.thaw()

    def require_auth(
        self,
        user: str,
        password: str,
        scheme: Scheme = "digest",
        *,
        algorithm: Literal["MD5", "SHA-256"] = "MD5",
        qop: bool = False,
    ) -> None:
        """Answer 401 to everything but OPTIONS until the client has proved itself."""
        self.challenge = Challenge(user, password, scheme, algorithm=algorithm, qop=qop)

    def answer(
        self, status: int, reason: str, headers: Mapping[str, str] | None = None, *, method: str = "DESCRIBE"
    ) -> None:
        """Answer every request of this method so, instead of passing it on."""
        self._answer = (method, status, reason, tuple((headers or {}).items()))

    def freeze(self) -> None:
        """Hold back all that the camera sends; connections stay open."""
        self._call(self._flow.clear)

    def thaw(self) -> None:
        """Let it flow again, what was held back first."""
        self._call(self._flow.set)

    def throttle(self, bytes_per_second: float | None) -> None:
        """Slow down what each client receives."""
        self._rate = bytes_per_second

    def lose(self, every: int) -> None:
        """Drop each `every`-th RTP packet (0: none), as a network or a busy camera does."""
        self._lose = every

    def black_hole(self, on: bool = True) -> None:
        """Accept connections and requests, and answer nothing."""
        self._deaf = on

    def drop_connections(self, *, reset: bool = False) -> None:
        """Close all connections, with a RST if `reset`."""
        self._wait(self._drop(reset))

    def refuse(self) -> None:
        """Stop listening: new connections are refused, open ones live on."""
        self._wait(self._close())

    def listen(self) -> None:
        """Listen (again) on the proxy's port."""
        self._wait(self._listen())

    # Running.

    def start(self) -> Self:
        """Listen, in a thread of its own."""
        self._thread.start()
        self.listen()
        return self

    def stop(self) -> None:
        """Close everything and end the thread."""
        if self._thread.is_alive():
            self._wait(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _call(self, function: Any) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(function)
        else:
            function()

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, self.host, self.port)

    async def _close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    async def _drop(self, reset: bool) -> None:
        links = dict(self._links)
        for writer in links:
            if reset:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        await asyncio.gather(*(link.ended.wait() for link in links.values()))

    async def _end(self) -> None:
        await self._close()
        await self._drop(False)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.total += 1
        link = self._links[writer] = _Link(self, reader, writer)
        try:
            await link.run(self._backend)
        finally:
            del self._links[writer]
            link.ended.set()
            writer.close()


class _Link:
    """One client's connection and the one behind it."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.playing = False
        self.ended = asyncio.Event()
        self._proxy, self._reader, self._writer = proxy, reader, writer

    async def run(self, backend_port: int) -> None:
        """Pump both ways until either side ends."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", backend_port)
            pumps = {
                asyncio.create_task(self._upward(back_writer)),
                asyncio.create_task(self._downward(back_reader)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                back_writer.transport.abort()
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)

    async def _upward(self, backend: asyncio.StreamWriter) -> None:
        proxy = self._proxy
        while True:
            message = await read_message(self._reader)
            if not message.startswith(b"$"):
                request = parse_request(message)
                proxy.requests.append(request)
                if proxy._deaf:
                    continue
                if (reply := self._reply(request)) is not None:
                    self._writer.write(reply)
                    await self._writer.drain()
                    continue
                self.playing |= request.method == "PLAY"
            if not proxy._deaf:
                backend.write(message)
                await backend.drain()

    def _reply(self, request: Request) -> bytes | None:
        challenge, answer = self._proxy.challenge, self._proxy._answer
        if challenge is not None and request.method != "OPTIONS":
            verdict = challenge.judge(request.method, request.uri, request.headers.get("authorization"))
            if verdict != "right":
                return response(request, 401, "Unauthorized", challenge.headers(verdict == "stale"))
        if answer is not None and answer[0] == request.method:
            return response(request, *answer[1:])
        return None

    async def _downward(self, backend: asyncio.StreamReader) -> None:
        proxy, packets = self._proxy, 0
        while True:
            message = await read_message(backend)
            if message.startswith(b"$") and not message[1] & 1:
                packets += 1
                if proxy._lose and packets % proxy._lose == 0:
                    proxy.lost += 1
                    continue
            await proxy._flow.wait()
            self._writer.write(message)
            await self._writer.drain()
            if proxy._rate:
                await asyncio.sleep(len(message) / proxy._rate)
