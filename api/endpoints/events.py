"""/api/v1/events: the event log, by page, by long poll and as Server-Sent Events (WHATWG HTML, 9.2)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Query
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from api.http import examples
from api.http.access.check import WhoDep, ended, share
from api.http.access.rules import needs
from api.http.dependencies import ServicesDep, StateDep
from api.http.openapi import header, problems
from api.http.params import StrictInteger
from api.http.routing import make_router
from api.http.state import AppState
from api.http.waiting import disconnected, while_wanted
from models.access import Scope
from models.schemas import CameraId, CloudEventPage
from models.values import LogEventType, LogFilter
from services.events.event_log import EventLog, LogPage, Start, parse_cursor
from utils.exceptions import IngestionException, InvalidRequest
from utils.logger import get_logger

if TYPE_CHECKING:
    from services.runtime import Services

log = get_logger(__name__)
router = make_router("/api/v1/events", tags=["events"])

STREAM = "text/event-stream"
MAX_WAIT = 30.0  # seconds
BEAT = 15.0  # seconds of silence after which a stream says that it lives
STALL = 30.0  # seconds that a client may leave what was sent unread
FAREWELL = 1.0  # seconds that the end of a stream may take
STREAM_PAGE = 100
_DECIMAL = re.compile(r"^[0-9]{1,6}(\.[0-9]{1,6})?\Z")


def _decimal(value: Any) -> Any:
    if isinstance(value, str) and not _DECIMAL.match(value):  # pydantic takes 1e1, nan, +5 and 1_0 too
        raise PydanticCustomError("float_parsing", "must be a number of seconds")
    return value


def _types(value: str | None) -> tuple[LogEventType, ...] | None:
    if value is None:
        return None
    known = {item.value: item for item in LogEventType}
    names = value.split(",")
    if not all(name in known for name in names):
        told = f"must be a comma-separated list of {', '.join(known)}"
        raise InvalidRequest.of("types", told, location="query", code="enum")
    return tuple(sorted({known[name] for name in names}))


async def _filter(
    who: WhoDep,
    types: Annotated[
        str | None,
        Query(max_length=500, description="Only these, comma-separated.", examples=["frame.stored,frame.deleted"]),
    ] = None,
    camera_id: Annotated[CameraId | None, Query(description="Only of this camera.")] = None,
) -> LogFilter:
    return LogFilter(who.cameras, _types(types), camera_id)


def wants_stream(request: Request) -> bool:
    """Whether Accept names text/event-stream, and application/json no more than it."""
    quality = {STREAM: 0.0, "application/json": 0.0}
    for item in ",".join(request.headers.getlist("accept")).split(","):
        kind, *params = (part.strip().lower() for part in item.split(";"))
        if kind in quality:
            given = next((param[2:] for param in params if param.startswith("q=")), "1")
            quality[kind] = float(given) if _DECIMAL.match(given) else 0.0
    return quality[STREAM] > 0 and quality[STREAM] >= quality["application/json"]


def _start(after: str | None, request: Request, stream: bool) -> Start:
    """Where to begin. A browser that reconnects asks for the same URL again: its Last-Event-ID goes before `after`."""
    last = request.headers.get("last-event-id")
    if stream and last:
        return parse_cursor(last, "Last-Event-ID", "header")
    if after is None:
        return "oldest"
    return "latest" if after == "latest" else parse_cursor(after, "after", "query")


class _EventStream(Response):
    """Sends pages as they come until the client leaves, the service stops, or the log cannot be read on."""

    media_type = STREAM

    def __init__(self, first: LogPage, log: EventLog, wanted: LogFilter, state: AppState, place: ExitStack) -> None:
        # Proxies that collect answers would hold events back.
        super().__init__(headers={"X-Accel-Buffering": "no", "Vary": "Accept"})
        del self.headers["content-length"]
        self._first, self._log, self._wanted, self._state, self._place = first, log, wanted, state, place

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        with self._place:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            request = Request(scope, receive)
            writing = asyncio.ensure_future(self._write(send))
            leaving = asyncio.ensure_future(disconnected(request))
            # A revoked or narrowed credential ends the stream: the client comes back with what it then has.
            revoked = asyncio.ensure_future(ended(request))
            tasks = (writing, leaving, asyncio.ensure_future(self._state.stopping.wait()), revoked)
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                gone = leaving.done()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            if not gone:
                with suppress(TimeoutError):  # to a client that reads nothing, not even the end can be said
                    async with asyncio.timeout(FAREWELL):
                        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send) -> None:
        try:
            async for chunk in self._chunks():
                async with asyncio.timeout(STALL):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except (IngestionException, TimeoutError) as error:
            # The client comes back with its Last-Event-ID, and is told then.
            log.info("event_stream_ended", reason=getattr(error, "code", "client_stalled"))

    async def _chunks(self) -> AsyncIterator[bytes]:
        yield b"retry: 1000\n\n" + blocks(self._first, "")
        told = str(self._first.position)
        async for page in self._log.follow(self._first, self._wanted, STREAM_PAGE, BEAT):
            yield blocks(page, told)
            told = str(page.position)


def blocks(page: LogPage, told: str) -> bytes:
    """A page as an event stream. Without events: a comment, and the position when it is not the `told` one."""
    lines = [
        b"id: %b\nevent: %b\ndata: %b\n\n" % (event.id.encode(), event.type.encode(), event.body) for event in page.events
    ]
    last = page.events[-1].id if page.events else told
    if (position := str(page.position)) != last:
        lines.append(b"id: %b\n\n" % position.encode())
    return b"".join(lines) or b": \n\n"


async def _answer(
    start: Start, wanted: LogFilter, limit: int, wait: float, request: Request, state: AppState, services: Services
) -> Response:
    with ExitStack() as place:
        if wait > 0:
            place.enter_context(share(request, "event readers", state.settings.EVENTS.MAX_READERS))
            place.enter_context(services.event_log.reader("poll"))
        page = await while_wanted(request, state, services.event_log.page(start, wanted, limit, wait))
    items = b",".join(event.body for event in page.events)
    body = b'{"items":[%b],"next_cursor":"%b"}' % (items, str(page.position).encode())
    return Response(body, media_type="application/json", headers={"Vary": "Accept"})


@router.get(
    "",
    operation_id="read_events",
    summary="Events in order; with Accept: text/event-stream as a stream",
    response_model=CloudEventPage,
    responses={
        200: {
            "description": "Events after the cursor.",
            "content": {
                "application/json": {"example": examples.CLOUD_EVENT_PAGE},
                STREAM: {"schema": {"type": "string"}, "example": examples.EVENT_STREAM},
            },
        },
        **problems("cursor_expired"),
    },
    openapi_extra={
        "parameters": [header("Last-Event-ID", "Streams: the last id that came; goes before `after`.", "7f0c2a44-….4711")]
    },
)
@needs(Scope.EVENTS_READ)
async def read_events(
    request: Request,
    services: ServicesDep,
    state: StateDep,
    wanted: Annotated[LogFilter, Depends(_filter)],
    after: Annotated[
        str | None,
        Query(
            max_length=100,
            description="`next_cursor` of the page before, or any event's id. Absent: from the oldest event that is kept. "
            "`latest`: only what comes from now on.",
        ),
    ] = None,
    wait: Annotated[
        float,
        BeforeValidator(_decimal, json_schema_input_type=float),
        Query(ge=0, le=MAX_WAIT, description="Seconds to wait for the first event."),
    ] = 0,
    limit: Annotated[StrictInteger, Query(ge=1, le=1000, description="Events a page.")] = 100,
) -> Response:
    """At least once, in one order, none skipped: keep `next_cursor` when the page's work is done (docs/integration.md).
    A stream takes no notice of `wait` and `limit`; it ends when the service stops, and is resumed by Last-Event-ID."""
    stream = wants_stream(request)
    start = _start(after, request, stream)
    head = bool(request.scope.get("trackshift.head"))
    if not stream:
        return await _answer(start, wanted, limit, 0 if head else wait, request, state, services)
    with ExitStack() as place:
        place.enter_context(share(request, "event readers", state.settings.EVENTS.MAX_READERS))
        place.enter_context(services.event_log.reader("stream"))
        first = await services.event_log.page(start, wanted, STREAM_PAGE)
        if head:
            return Response(media_type=STREAM, headers={"Vary": "Accept"})
        return _EventStream(first, services.event_log, wanted, state, place.pop_all())
