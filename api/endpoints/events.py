"""/api/v1/events: the event log, by page, by long poll and as Server-Sent Events (WHATWG HTML, 9.2)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le
from fastapi import Depends, Query
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Send
from starlette.types import Scope as ASGIScope

from api.http import examples
from api.http.access.check import WhoDep, share
from api.http.access.rules import needs
from api.http.dependencies import ServicesDep, StateDep
from api.http.openapi import header, problems
from api.http.params import DECIMAL, StrictInteger, StrictSeconds
from api.http.routing import make_router
from api.http.state import AppState
from api.http.waiting import while_wanted
from models.access import Scope
from models.schemas import CameraId, CloudEventPage
from models.values import LogEventType, LogFilter
from services.events.event_log import CURSOR_FORM, EventLog, LogPage, Newest, Start, parse_cursor
from utils.exceptions import IngestionException, InvalidRequest, ShuttingDown
from utils.logger import get_logger

if TYPE_CHECKING:
    from services.runtime import Services

log = get_logger(__name__)
router = make_router("/api/v1/events", tags=["events"])

STREAM = "text/event-stream"
MAX_WAIT = 30.0  # seconds
MAX_NEWEST = 1000
COMMENT_INTERVAL = 15.0  # seconds without events after which a stream sends a comment
STALL_TIMEOUT = 30.0  # seconds that a client may leave what was sent unread
FAREWELL_TIMEOUT = 1.0  # seconds that the end of a stream may take
RETRY = 1000  # milliseconds after which browsers connect again
STREAM_PAGE = 100
_TYPE = "|".join(re.escape(item.value) for item in LogEventType)


def _types(value: str | None) -> tuple[LogEventType, ...] | None:
    if value is None:
        return None
    known = {item.value: item for item in LogEventType}
    names = value.split(",")
    if not all(name in known for name in names):
        message = f"must be a comma-separated list of {', '.join(known)}"
        raise InvalidRequest.of("types", message, location="query", code="enum")
    return tuple(sorted({known[name] for name in names}))


async def _filter(
    who: WhoDep,
    types: Annotated[
        str | None,
        Query(
            max_length=500,
            description="Only these, comma-separated.",
            examples=["frame.stored,frame.deleted"],
            json_schema_extra={"pattern": f"^({_TYPE})(,({_TYPE}))*$"},
        ),
    ] = None,
    camera_id: Annotated[CameraId | None, Query(description="Only of this camera.")] = None,
) -> LogFilter:
    return LogFilter(who.cameras, _types(types), camera_id)


def wants_stream(request: Request) -> bool:
    """Whether Accept names text/event-stream, and application/json no more than it.

    By hand (six lines): for Werkzeug's `MIMEAccept.quality` `*/*` and `text/*`, which plain HTTP clients send, ask for a
    stream, and `text/event-stream;charset=utf-8` does not.
    """
    quality = {STREAM: 0.0, "application/json": 0.0}
    for item in ",".join(request.headers.getlist("accept")).split(","):
        kind, *params = (part.strip().lower() for part in item.split(";"))
        if kind in quality:
            given = next((param[2:] for param in params if param.startswith("q=")), "1")
            quality[kind] = float(given) if DECIMAL.match(given) else 0.0
    return quality[STREAM] > 0 and quality[STREAM] >= quality["application/json"]


def _start(after: str | None, newest: int | None, request: Request, stream: bool) -> Start:
    """Where to begin. A browser that reconnects asks for the same URL again: its Last-Event-ID goes before `after`."""
    last = request.headers.get("last-event-id")
    if stream and last:
        return parse_cursor(last, "Last-Event-ID", "header")
    if newest is not None and after is not None:
        message = "says where to begin, and so does `newest`: send one of them"
        raise InvalidRequest.of("after", message, location="query", code="not_applicable")
    if newest is not None:
        return Newest(newest)
    if after is None:
        return "oldest"
    return "latest" if after == "latest" else parse_cursor(after, "after", "query")


class _EventStream(EventSourceResponse):
    """Sends pages as they come until the client leaves, the service stops, or the log cannot be read on.

    FastAPI's response with ends of its own: a client that leaves, or does not read, frees its place at once.
    """

    def __init__(self, first: LogPage, log: EventLog, wanted: LogFilter, state: AppState, place: ExitStack) -> None:
        # Proxies that collect answers would hold events back.
        super().__init__(_stream(first, log, wanted), headers={"X-Accel-Buffering": "no", "Vary": "Accept"})
        self._state, self._place = state, place

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        async def in_time(message: Message) -> None:
            async with asyncio.timeout(STALL_TIMEOUT):
                await send(message)

        with self._place:
            try:
                await while_wanted(Request(scope, receive), self._state, self.stream_response(in_time))
            except (IngestionException, TimeoutError) as error:
                # The client comes back with its Last-Event-ID, and gets the problem then.
                left = isinstance(error, ShuttingDown) and not self._state.stopping.is_set()
                reason = "client_left" if left else getattr(error, "code", "client_stalled")
                log.info("event_stream_ended", reason=reason)
                with suppress(TimeoutError):  # a client that reads nothing does not read the end either
                    async with asyncio.timeout(FAREWELL_TIMEOUT):
                        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _stream(first: LogPage, log: EventLog, wanted: LogFilter) -> AsyncIterator[bytes]:
    yield format_sse_event(retry=RETRY) + sse_of(first, "")
    sent = str(first.position)
    async for page in log.follow(first, wanted, STREAM_PAGE, COMMENT_INTERVAL):
        yield sse_of(page, sent)
        sent = str(page.position)


def sse_of(page: LogPage, sent: str) -> bytes:
    """A page as server-sent events, their ids the cursors after them. A page without events gives its position if that is
    not the one that was `sent`, else a comment."""
    events = [format_sse_event(data_str=event.body.decode(), event=event.type, id=event.id) for event in page.events]
    last = page.events[-1].id if page.events else sent
    if (position := str(page.position)) != last:
        events.append(format_sse_event(id=position))
    return b"".join(events) or format_sse_event(comment="")


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
        "parameters": [
            header(
                "Last-Event-ID",
                "Streams: the last id that came; goes before `after`.",
                "7f0c2a44-5d0e-4c39-9a34-0f8d1c7b2e61.4711",
            )
        ]
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
            json_schema_extra={"pattern": f"^(latest|{CURSOR_FORM})$"},
            description="`next_cursor` of the page before, or any event's id. Absent: from the oldest event that is kept. "
            "`latest`: only what comes from now on.",
        ),
    ] = None,
    wait: Annotated[
        float,
        Ge(0),
        Le(MAX_WAIT),
        StrictSeconds,
        Query(description="Seconds to wait for the first event."),
    ] = 0,
    limit: Annotated[int, Ge(1), Le(1000), StrictInteger, Query(description="Events a page.")] = 100,
    newest: Annotated[
        int | None,
        Ge(1),
        Le(MAX_NEWEST),
        StrictInteger,
        Query(
            description="Begin with so many of the newest events, oldest first, on one page whatever `limit` says; "
            "`next_cursor` is the log's end. Not together with `after`."
        ),
    ] = None,
) -> Response:
    """At least once, in one order, none skipped: keep `next_cursor` when the page's work is done (docs/integration.md).
    A stream takes no notice of `wait` and `limit`; it ends when the service stops, and is resumed by Last-Event-ID.
    `newest` is for showing what happened last: it may find fewer where the filter takes very few of the last 100,000
    events, or where the page would have more than 4 MiB."""
    stream = wants_stream(request)
    start = _start(after, newest, request, stream)
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
