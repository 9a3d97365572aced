"""uvicorn's HTTP/1.1 protocol with bounds on what it leaves open: heads, trailers, chunk headers, pauses, connections.

Each connection has one timer of ours: for the head of a request, and for the rest of a body whose answer has been given.
uvicorn's own is for the time between two requests.

Longer than 250 lines: one class over uvicorn's, whose methods share what is left open on one connection.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.http.connections import Connections
from api.http.errors import TABLE, problem_response
from api.http.state import ALWAYS_SERVED
from utils.exceptions import Overloaded
from utils.ids import new_id
from utils.logger import Throttle, get_logger

log = get_logger(__name__)

MAX_HEAD_BYTES = 65_536  # of a head; of the trailers; of chunk headers beyond FRAMING
FRAMING = 8  # bytes of chunk headers that each byte of a body may bring
HEAD_TIMEOUT = 30.0  # seconds from connecting, or from the first byte, to the end of the headers
REST_TIMEOUT = 30.0  # seconds in which a body may end whose answer has been given; then the connection is closed
KEEP_ALIVE = 65  # seconds; longer than usual proxies and clients keep theirs, so that they close first
REFUSED_TIMEOUT = 5.0  # seconds for the head of a request that will be answered 503
_LARGE_HEAD = "The request's headers are larger than this service takes."


class _Counted:
    """A transport that counts what is written to it, and sends an answer's head with what follows it.

    Each write is a system call and wakes the client. A head that nothing follows is sent in the loop's next turn.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)
        if self._head:
            data, self._head = self._head + data, b""
        elif data.endswith(b"\r\n\r\n") and data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def _flush(self) -> None:
        if self._head:
            data, self._head = self._head, b""
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        return len(self._head) + self._transport.get_write_buffer_size()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedProtocol(HttpToolsProtocol):
    """An HttpConnection of `bounds`. Trailers are counted and dropped (RFC 9110, section 6.5.1): nothing asks for them."""

    _timer: asyncio.TimerHandle | None = None
    resting_since: float | None = None
    _in_head = True
    _receiving = False  # a request's head has begun, its body has not ended
    _messages = 0  # begun on this connection
    _head_bytes = _field_bytes = _body_bytes = _framing = 0  # of the newest
    _refused = _upgraded = False

    def __init__(self, bounds: Connections, throttle: Throttle, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._bounds, self._throttle = bounds, throttle

    # An HttpConnection.

    def written(self) -> int:
        return self._counted.written

    def unread(self) -> int:
        return int(self.transport.get_write_buffer_size())

    def end(self, reason: str) -> None:
        if (withheld := self._throttle.allow(reason)) is not None:
            log.warning("connection_closed", reason=reason, withheld=withheld)
        self.transport.abort()

    # Connection and requests, as the event loop and the parser tell them.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._counted = _Counted(transport, self.loop)
        super().connection_made(self._counted)  # type: ignore[arg-type]
        self.resting_since = self.loop.time()
        place = self._bounds.admit(self)
        if place == "dropped":
            self.end("too_many")
            return
        if place == "refused":
            self._refused, self.app = True, _refusing(self.app)
        self._start(HEAD_TIMEOUT if place == "served" else REFUSED_TIMEOUT, "head_too_slow")

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._bounds.lost(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        message, body = self._messages, self._body_bytes
        in_body = self._receiving and not self._in_head
        super().data_received(data)
        if self._upgraded or self.parser is None or self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response(_LARGE_HEAD)
        elif in_body and message == self._messages:
            self._framing += len(data) - (self._body_bytes - body)
            if self._receiving and self._framing > MAX_HEAD_BYTES + FRAMING * self._body_bytes:
                self.send_400_response("The body has more chunk headers or trailers than this service takes.")
        elif self._timer is None and self.timeout_keep_alive_task is None and not self._served():
            self._start(HEAD_TIMEOUT, "head_too_slow")  # line breaks, which begin no request, have ended uvicorn's timer

    def _should_upgrade_to_ws(self) -> bool:
        return not self._refused and super()._should_upgrade_to_ws()  # one that is refused is answered as any other request

    def handle_websocket_upgrade(self) -> None:
        self._stop()
        self._upgraded = True
        self._bounds.lost(self)  # the WebSocket takes the place
        super().handle_websocket_upgrade()

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing to warn of: a client may ask for whatever protocol, and is answered in this one."""

    def _served(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._messages += 1
        self._in_head = self._receiving = True
        self._head_bytes = self._field_bytes = self._body_bytes = self._framing = 0
        self._start(HEAD_TIMEOUT, "head_too_slow")

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        if self._in_head:
            super().on_header(name, value)

    def _count(self, size: int) -> None:
        """Of the head, then of the trailers: a whole one can come in one read."""
        self._field_bytes += size
        if self._field_bytes > MAX_HEAD_BYTES:
            raise ValueError(_LARGE_HEAD)  # the parser makes its own error of it, and that is a 400

    def on_headers_complete(self) -> None:
        self._stop()
        self._in_head, self._field_bytes = False, 0
        self.resting_since = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._receiving = False
        if self.parser.should_upgrade() and self._should_upgrade():
            return  # the connection becomes a WebSocket: nothing of HTTP comes after this
        super().on_message_complete()
        if self.cycle.response_complete and not self.transport.is_closing():  # answered before its body had come
            self._stop()
            self._rest()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._refused:
            self.transport.close()
        if self.transport.is_closing() or self._served():
            return
        self.resting_since = self.loop.time()
        if self._receiving and not self._in_head:
            self.resting_since = None
            self._unset_keepalive_if_required()
            self._start(REST_TIMEOUT, "rest_too_slow")

    def _rest(self) -> None:
        self._unset_keepalive_if_required()
        self.resting_since = self.loop.time()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _start(self, seconds: float, reason: str) -> None:
        self._stop()
        self._timer = self.loop.call_later(seconds, self._too_slow, reason)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self, reason: str) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.end(reason)

    def send_400_response(self, msg: str) -> None:
        """A problem, as every other error: the application never sees such a request."""
        self._stop()
        if self._served() and (self.cycle.response_started or not self.cycle.more_body):
            self.end("bad_http")  # this would be taken for the answer, or a part of the answer, that the client waits for
            return
        request_id = str(new_id())
        log.warning("bad_http", request_id=request_id)
        body = json.dumps(
            {
                "type": "about:blank", "title": TABLE["malformed_request"][1], "status": 400, "code": "malformed_request",
                "detail": msg, "instance": "", "trace_id": request_id, "retryable": False, "errors": [],
            }
        ).encode()  # fmt: skip
        head = (
            "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nX-Request-ID: {request_id}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def _refusing(app: Any) -> Any:
    """The application of a connection beyond the bound: operators are served, everybody else is answered 503."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in ALWAYS_SERVED:
            await app(scope, receive, send)
            return
        scope["trackshift.request_id"] = str(new_id())
        headers = {"Connection": "close", "X-Request-ID": scope["trackshift.request_id"]}
        error = Overloaded("API__MAX_CONNECTIONS connections are busy. Try again.")
        await problem_response(scope, error, headers)(scope, receive, send)

    return answer
