"""One WebSocket: its subscriptions, and what waits to be sent to it.

Nothing is queued without bound. A subscription that finds the queue full is detached from the tail and reads on from the
database when the client has read what was sent: it loses nothing, and holds no memory. A client that reads nothing at all
is closed by the server (api.http.socket_protocol). While nothing is to be sent, a session has no task. On the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Literal
from uuid import UUID

from pydantic_core import to_json

from models.access import Principal
from models.values import LogFilter
from services.events.event_log import Position
from services.live.interest import Interest
from services.live.tail import RETRY, Tail
from services.reads.serializers.event_log import LogEvent
from utils.exceptions import CursorExpired, DatabaseUnavailable, IngestionException, InvalidRequest
from utils.logger import get_logger
from utils.metrics import WEBSOCKET_LAGS, WEBSOCKET_MESSAGES, WEBSOCKET_SUBSCRIPTIONS

log = get_logger(__name__)

MAX_SUBSCRIPTIONS = 32
MAX_NAMES = 1000  # cameras and requests that one session's subscriptions name together
MAX_QUEUED = 256  # messages
MAX_QUEUED_BYTES = 1_048_576
SOON = 0.05  # seconds
POSITION_TIMEOUT = 5.0  # seconds in which the tail must have read how far the log goes
GONE = (OSError, RuntimeError)  # of `send`, when the connection has been closed
Kind = Literal["event", "progress", "reply"]
INTERNAL_ERROR = 1011  # RFC 6455


class Subscription:
    """A Subscriber of the tail while `live`; else `position` says from where it reads on."""

    __slots__ = ("_session", "ended", "fresh", "interest", "live", "name", "position", "prefix")

    def __init__(self, session: LiveSession, name: str, interest: Interest, position: Position) -> None:
        self._session = session
        self.name = name
        self.interest = interest
        self.position = position
        self.fresh = True  # has not been told yet how its requests stand
        self.live = self.ended = False
        self.prefix = b'{"op":"event","id":%b,"cursor":' % to_json(name)

    def message(self, event: LogEvent) -> bytes:
        return b'%b"%b","event":%b}' % (self.prefix, event.id.encode(), event.body)

    def offer(self, seq: int, event: LogEvent) -> None:
        if seq <= self.position.seq:
            return  # it had read further than the tail
        if not self._session.put(self.message(event), "event"):
            self.left_behind(Position(self.position.log_id, seq - 1))

    def report(self, request_id: UUID, state: bytes) -> bool:
        """How a request stands: `state` is the message from its status on. False when there is no room."""
        head = b'{"op":"progress","id":%b,"request_id":"%b",' % (to_json(self.name), str(request_id).encode())
        return self.ended or self._session.put(head + state, "progress")

    def left_behind(self, position: Position) -> None:
        self.position = position
        self._session.fall_behind(self)


class LiveSession:
    """`send` takes one message and returns when there is room for the next; `end` closes the connection with a code."""

    def __init__(
        self, tail: Tail, who: Principal, send: Callable[[bytes], Awaitable[None]], end: Callable[[int, str], None]
    ) -> None:
        self.who = who
        self.subscriptions: dict[str, Subscription] = {}
        self._tail, self._send, self._end = tail, send, end
        self._out: deque[tuple[bytes, Kind]] = deque()
        self._size = 0
        self._behind: deque[Subscription] = deque()
        self._writer: asyncio.Task[None] | None = None
        self.ended = False

    # -- what the client asks for ------------------------------------------------------------------------------

    async def subscribe(self, name: str, wanted: LogFilter, after: Position | Literal["oldest", "latest"]) -> Subscription:
        """Raises InvalidRequest, DatabaseUnavailable. A cursor that has expired is told later, as a message."""
        interest = self._checked(name, wanted)
        if after == "latest":
            try:
                async with asyncio.timeout(POSITION_TIMEOUT):
                    position = await self._tail.position()
            except TimeoutError:
                raise DatabaseUnavailable(retry_after=2) from None
        elif after == "oldest":
            position = await self._tail.oldest()
        else:
            position = after
        self._checked(name, wanted)  # again: other messages may have come meanwhile
        made = self.subscriptions[name] = Subscription(self, name, interest, position)
        WEBSOCKET_SUBSCRIPTIONS.inc()
        self.put(to_json({"op": "subscribed", "id": name, "cursor": str(position)}), "reply", always=True)
        made.live = self._tail.attach(made, position)
        if not made.live:
            self._read_on(made)
        return made

    def unsubscribe(self, name: str) -> Subscription:
        """Raises InvalidRequest."""
        found = self.subscriptions.pop(name, None)
        if found is None:
            raise InvalidRequest("There is no subscription of that id.")
        self._drop(found)
        return found

    def error(self, error: IngestionException, name: str | None = None) -> None:
        """Tells the client of an error; the connection stays."""
        told: dict[str, Any] = {"op": "error", "code": error.code, "detail": error.message}
        if name is not None:
            told["id"] = name
        if "oldest_cursor" in error.details:
            told["oldest_cursor"] = error.details["oldest_cursor"]
        self.put(to_json(told), "reply", always=True)

    def pong(self) -> None:
        self.put(b'{"op":"pong"}', "reply", always=True)

    async def answered(self) -> None:
        """Returns when what was answered has been sent: a client that does not read is not heard either."""
        while self._writer is not None and len(self._out) >= MAX_QUEUED:
            await asyncio.wait([self._writer])

    def _checked(self, name: str, wanted: LogFilter) -> Interest:
        if name in self.subscriptions:
            raise InvalidRequest("A subscription of that id is open already: unsubscribe it first.")
        if len(self.subscriptions) >= MAX_SUBSCRIPTIONS:
            raise InvalidRequest(f"A connection has at most {MAX_SUBSCRIPTIONS} subscriptions.")
        held = sum(_names(item.interest.wanted) for item in self.subscriptions.values())
        if held + _names(wanted) > MAX_NAMES:
            raise InvalidRequest(f"The subscriptions of a connection name at most {MAX_NAMES} cameras and requests.")
        return Interest(wanted)

    # -- what is sent ------------------------------------------------------------------------------------------

    def put(self, message: bytes, kind: Kind, *, always: bool = False) -> bool:
        """Queues a message; False when there is no room (replies are bounded by `answered`)."""
        if self.ended:
            return True  # nobody reads it any more
        full = len(self._out) >= MAX_QUEUED or self._size + len(message) > MAX_QUEUED_BYTES
        if full and self._out and not always:
            return False
        self._out.append((message, kind))
        self._size += len(message)
        self._start()
        return True

    def fall_behind(self, subscription: Subscription) -> None:
        """The subscription reads on from the database when what is queued has been sent."""
        self._tail.detach(subscription)
        subscription.live = False
        if not self.ended:
            WEBSOCKET_LAGS.inc()
            self._read_on(subscription)

    def end(self, code: int, reason: str) -> None:
        """Closes the connection. Repeating it is fine."""
        if not self.ended:
            self._end(code, reason)

    def close(self) -> None:
        """The connection is closed: nothing is read or sent for it any more."""
        self.ended = True
        for subscription in self.subscriptions.values():
            self._drop(subscription)
        self.subscriptions.clear()
        self._out.clear()
        self._behind.clear()
        if self._writer is not None:
            self._writer.cancel()

    def _drop(self, subscription: Subscription) -> None:
        subscription.ended = True
        self._tail.detach(subscription)
        WEBSOCKET_SUBSCRIPTIONS.dec()

    def _read_on(self, subscription: Subscription) -> None:
        self._behind.append(subscription)
        self._start()

    def _start(self) -> None:
        if self._writer is None and not self.ended:
            self._writer = asyncio.create_task(self._write(), name="live-writer")

    async def _write(self) -> None:
        try:
            while not self.ended:
                if self._out:
                    message, kind = self._out.popleft()
                    self._size -= len(message)
                    await self._send(message)
                    WEBSOCKET_MESSAGES.labels(kind=kind).inc()
                elif self._behind:
                    await self._catch_up(self._behind.popleft())
                else:
                    return
        except GONE:
            pass  # the connection's own task is told
        except Exception:
            log.exception("live_writer_failed")
            self.end(INTERNAL_ERROR, "internal error")
        finally:
            self._writer = None

    async def _catch_up(self, subscription: Subscription) -> None:
        """One page, then the others' turn."""
        if subscription.ended:
            return
        try:
            page = await self._tail.page(subscription.position, subscription.interest.wanted)
        except CursorExpired as error:
            if self.subscriptions.pop(subscription.name, None) is not None:
                self._drop(subscription)
            self.error(error, subscription.name)
            return
        except DatabaseUnavailable:
            asyncio.get_running_loop().call_later(RETRY, self._read_on, subscription)
            return
        if subscription.ended:
            return
        for event in page.events:
            self._out.append((subscription.message(event), "event"))
            self._size += len(event.body)
        subscription.position = page.position
        subscription.live = not page.behind and self._tail.attach(subscription, page.position)
        if subscription.live:
            return
        if page.events or page.behind:
            self._behind.append(subscription)
        else:  # the tail does not know yet how far the log goes
            asyncio.get_running_loop().call_later(SOON, self._read_on, subscription)


def _names(wanted: LogFilter) -> int:
    return len(wanted.camera_ids or ()) + len(wanted.request_ids or ()) + (wanted.camera_id is not None)
