"""uvicorn's WebSocket protocol with bounds: an HttpConnection among the others, and an end that no client can hold up.

uvicorn logs the whole address of each WebSocket, and the library below it every header: here neither logs anything, since
both hold tickets and credentials.
"""

from __future__ import annotations

import logging
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.server import ServerProtocol

from api.http.connections import Connections
from utils.logger import Throttle, get_logger

log = get_logger(__name__)

MAX_MESSAGE = 65_536  # bytes of a client's message; a longer one closes the connection with 1009
PING_INTERVAL = 30.0  # seconds between two pings; who does not answer within PING_TIMEOUT is gone
PING_TIMEOUT = 30.0
CLOSE_TIMEOUT = 10.0  # seconds that a client has to read what was sent, and to answer the close
STOP_TIMEOUT = 1.0  # the same, when the service stops
TRY_AGAIN = 1013
END = "trackshift.end"  # of the scope: Callable[[code, reason], None]

_silent = logging.getLogger("trackshift.websocket.library")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False
_silent.setLevel(logging.CRITICAL + 1)


class BoundedSocket(WebSocketsSansIOProtocol):
    """An HttpConnection of `bounds`: never at rest, so none is closed to make room; who does not read ends with 1013."""

    resting_since: float | None = None

    def __init__(self, bounds: Connections, throttle: Throttle, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._bounds, self._throttle = bounds, throttle
        self.logger = _silent
        # Without compression: it costs each connection 20 KB and more, and events are short.
        self.conn = ServerProtocol(max_size=MAX_MESSAGE, logger=_silent)
        self.close_timeout = CLOSE_TIMEOUT

    # An HttpConnection.

    def written(self) -> int:
        return int(self.transport.written)  # type: ignore[attr-defined]  # protocol._Counted

    def unread(self) -> int:
        return int(self.transport.get_write_buffer_size())

    def end(self, reason: str) -> None:
        if (withheld := self._throttle.allow(f"websocket_{reason}")) is not None:
            log.warning("connection_closed", reason=reason, kind="websocket", withheld=withheld)
        self.finish(TRY_AGAIN, "the client does not read")

    # What the event loop and the library tell.

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._bounds.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._bounds.lost(self)
        super().connection_lost(exc)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:  # the application's task is made and has not begun
            cast("dict[str, Any]", self.scope)[END] = self.finish

    def finish(self, code: int, reason: str) -> None:
        """Closes an open connection, whatever waits to be read; after CLOSE_TIMEOUT without an answer it is cut."""
        if self.close_sent or self.disconnected or not self.handshake_complete:
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.writable.set()  # who waits in `send` goes on, and finds the connection closed
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(CLOSE_TIMEOUT, self.transport.abort)

    def shutdown(self) -> None:
        """The server stops: 1012, the client comes back."""
        if self.handshake_complete:
            self.finish(1012, "the service restarts")
            if self.close_timer is not None:  # the stop waits for all connections
                self.close_timer.cancel()
                self.close_timer = self.loop.call_later(STOP_TIMEOUT, self.transport.abort)
        else:
            super().shutdown()
