"""/api/v1/ws: events and progress over a WebSocket, and the tickets with which browsers open it (docs/websocket.md)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Query
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.types import Message, Receive, Send

from api.http import examples
from api.http.access.check import WhoDep, by_header, caller_name, principal, share
from api.http.access.rules import needs
from api.http.dependencies import ServicesDep
from api.http.openapi import answer, problems
from api.http.routing import make_router
from api.http.socket_protocol import END
from api.http.socket_route import SocketRoute
from api.http.state import AppState, app_state
from api.http.strict_json import loads
from api.http.validation import invalid
from models.access import Principal, Scope
from models.schemas import ClientMessage, Ping, Subscribe, Ticket, Unsubscribe
from models.values import LogFilter
from services.events.event_log import Position, parse_cursor
from services.live.live_session import LiveSession
from utils.exceptions import IngestionException, MalformedRequest, ShuttingDown, Unauthorized, UpgradeRequired
from utils.logger import get_logger
from utils.metrics import WEBSOCKETS_CLOSED

if TYPE_CHECKING:
    from services.access.service import Access
    from services.runtime import Services
else:
    Access = Any

log = get_logger(__name__)
router = make_router("/api/v1/ws", tags=["events"])

PATH = "/api/v1/ws"
SUBPROTOCOL = "trackshift.v1"
KNOWN_CODES = (1000, 1001, 1005, 1006, 1009, 1011, 1012, 1013, 4401)  # of the metric; others are "other"


@router.post(
    "/tickets",
    operation_id="create_ticket",
    summary="A ticket that opens the WebSocket",
    response_model=Ticket,
    responses={200: answer("The ticket.", examples.TICKET), **problems()},
)
@needs(Scope.EVENTS_READ)
async def create_ticket(services: ServicesDep, who: WhoDep) -> Any:
    """Good once and for 30 s. The connection has the caller's cameras, and ends with the caller's credential."""
    ticket, expires = await services.access.tickets.issue(who)
    return Ticket(ticket=ticket, expires_at=expires)


@router.get(
    "",
    operation_id="open_socket",
    include_in_schema=False,  # OpenAPI has no form for a WebSocket
)
@needs(Scope.EVENTS_READ)
async def open_socket(ticket: Annotated[str | None, Query(max_length=128)] = None) -> None:
    """Without `Upgrade: websocket`."""
    raise UpgradeRequired


async def identify(request: Request, access: Access) -> Principal:
    """By the Authorization header, else by `?ticket=`; no cookie: another page could have the browser send it."""
    if "authorization" in request.headers:
        return await by_header(request, access)
    tickets = request.query_params.getlist("ticket")
    if not tickets:
        raise Unauthorized
    if len(tickets) > 1:
        raise Unauthorized(details={"given": True})
    return await access.tickets.redeem(tickets[0])


@needs(Scope.EVENTS_READ)
async def live(request: Request) -> Callable[[Receive, Send], Awaitable[None]]:
    """Takes a place for the connection, and serves it. Raises Overloaded, RateLimited, ShuttingDown."""
    state = app_state(request)
    services = state.services
    if services is None:
        raise ShuttingDown
    services.live.room()
    place = ExitStack()
    place.enter_context(share(request, "WebSockets", state.settings.EVENTS.MAX_SOCKETS))
    connection = _Connection(request, state, services)

    async def serve(receive: Receive, send: Send) -> None:
        with place:
            await connection.serve(receive, send)

    return serve


router.routes.append(SocketRoute(PATH, live, SUBPROTOCOL, identify))


class _Connection:
    """One WebSocket from its acceptance to its end."""

    def __init__(self, request: Request, state: AppState, services: Services) -> None:
        self._who = principal(request)
        self._caller = caller_name(self._who, request.scope["trackshift.address"])
        self._end = request.scope.get(END)
        self._state, self._services = state, services
        self._code: int | None = None

    async def serve(self, receive: Receive, send: Send) -> None:
        hub, began = self._services.live, time.monotonic()

        async def told(message: bytes) -> None:
            await send({"type": "websocket.send", "text": message.decode()})

        session = hub.open(self._who, told, self._finish)
        try:
            await receive()  # websocket.connect
            await send({"type": "websocket.accept"})
            if self._state.stopping.is_set():
                self._finish(1012, "the service restarts")
            while (message := await receive())["type"] == "websocket.receive":
                await self._heard(session, message)
            self._code = self._code or message.get("code", 1006)
        except OSError:  # uvicorn's ClientDisconnected
            self._code = self._code or 1006
        finally:
            hub.close(session)
            code = self._code or 1006
            WEBSOCKETS_CLOSED.labels(code=str(code) if code in KNOWN_CODES else "other").inc()
            log.info("websocket_closed", code=code, seconds=round(time.monotonic() - began, 1))

    def _finish(self, code: int, reason: str) -> None:
        self._code = self._code or code
        if self._end is not None:
            self._end(code, reason)

    async def _heard(self, session: LiveSession, message: Message) -> None:
        name = None
        try:
            text = message.get("text")
            if text is None:
                raise MalformedRequest("Messages are text frames with JSON.")
            value = loads(text.encode())
            name = value.get("id") if isinstance(value, dict) else None
            name = name if isinstance(name, str) and len(name) <= 64 else None
            try:
                asked: Any = _messages().validate_python(value)
            except ValidationError as error:
                raise invalid([{**item, "loc": ("body", *item["loc"][1:])} for item in error.errors()]) from None
            await self._do(session, asked)
        except IngestionException as error:
            session.error(error, name)
        await session.answered()

    async def _do(self, session: LiveSession, asked: Subscribe | Unsubscribe | Ping) -> None:
        if isinstance(asked, Ping):
            session.pong()
        elif isinstance(asked, Unsubscribe):
            self._services.live.unsubscribe(session, asked.id)
        else:
            await self._services.access.rates.request("read", self._caller)
            wanted = _wanted(asked, self._who)
            after = _start(asked.after)
            await self._services.live.subscribe(session, asked.id, wanted, after, progress=bool(asked.progress))


@cache
def _messages() -> TypeAdapter[Any]:
    return TypeAdapter(ClientMessage)


def _start(after: str | None) -> Position | Literal["oldest", "latest"]:
    if after is None or after == "latest":
        return "latest"
    return "oldest" if after == "oldest" else parse_cursor(after, "after", "body")


def _wanted(asked: Subscribe, who: Principal) -> LogFilter:
    return LogFilter(
        who.cameras,
        None if asked.types is None else tuple(sorted(set(asked.types))),
        camera_ids=None if asked.camera_ids is None else tuple(sorted(set(asked.camera_ids))),
        request_ids=None if asked.request_ids is None else tuple(sorted(set(asked.request_ids))),
    )
