"""Pure ASGI middleware, from the outside in: RequestContext, Cors, Boundary (api.http.access), UnexpectedErrors, Head."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from functools import lru_cache
from typing import Any

import structlog
from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.errors import internal_error, problem_response
from api.http.state import ALWAYS_SERVED, AppState
from utils.exceptions import MalformedRequest
from utils.ids import new_id
from utils.logger import get_logger, info_line
from utils.metrics import HTTP_DURATION, HTTP_IN_FLIGHT, HTTP_REQUESTS

log = get_logger("api.access")

_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,128}\Z")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OURS = frozenset((b"x-request-id", b"x-content-type-options"))
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_NO_REFERRER = (b"referrer-policy", b"no-referrer")  # presigned URLs are bearer secrets
_NO_STORE = (b"cache-control", b"no-store")
CLIENT_GONE = 499  # nginx's number for a client that left before the answer; never sent


@lru_cache(maxsize=1000)
def _series(endpoint: str, method: str, status: int) -> tuple[Counter, Histogram]:
    """To look for them by their labels takes as long as to count."""
    counted = HTTP_REQUESTS.labels(endpoint=endpoint, method=method, status=f"{status:03d}")
    return counted, HTTP_DURATION.labels(endpoint=endpoint, method=method)


class RequestContext:
    """X-Request-ID, access log and metrics of every request; the headers of every answer."""

    def __init__(self, app: ASGIApp, state: AppState) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.match(given) else str(new_id())
        scope["trackshift.request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        extra: dict[str, str] = {}
        scope["trackshift.headers"] = extra  # what the access check has to say beside the answer
        if scope["type"] == "websocket":
            await self._handshake(scope, receive, send)
            return
        place = scope["trackshift.place"] = ExitStack()  # held until the answer is sent
        status, sent, began = CLIENT_GONE, 0, time.perf_counter()

        async def tagged(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                raw = message["headers"] = [*message.get("headers", ())]
                named = {name for name, _ in raw}
                if named & _OURS or extra:
                    headers = MutableHeaders(scope=message)
                    for name in ("X-Request-ID", "X-Content-Type-Options"):
                        del headers[name]
                    for name, value in extra.items():
                        headers[name] = value
                    raw = message["headers"]
                raw += [(b"x-request-id", request_id.encode()), _NO_SNIFFING]
                if b"referrer-policy" not in named:
                    raw.append(_NO_REFERRER)
                if b"cache-control" not in named and scope["path"].startswith("/api/"):
                    raw.append(_NO_STORE)
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        counted = scope["path"] not in ALWAYS_SERVED
        self.state.in_flight += counted
        HTTP_IN_FLIGHT.inc()
        try:
            with place:
                await self.app(scope, receive, tagged)
        finally:
            self.state.in_flight -= counted
            HTTP_IN_FLIGHT.dec()
            self._account(scope, status, sent, time.perf_counter() - began)

    async def _handshake(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket's: accounted for as a request that is answered 101, or refused. The connection is its endpoint's."""
        began = time.perf_counter()

        async def tagged(message: Message) -> None:
            if message["type"] in ("websocket.accept", "websocket.http.response.start"):
                own = {"X-Request-ID": scope["trackshift.request_id"], **scope["trackshift.headers"]}
                added = [(name.lower().encode(), value.encode()) for name, value in own.items()]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
                self._account(scope, message.get("status", 101), 0, time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, tagged)

    @staticmethod
    def _account(scope: Scope, status: int, sent: int, seconds: float) -> None:
        endpoint = getattr(scope.get("route"), "path", None) or "unmatched"
        method = scope.get("method", "GET") if scope.get("method", "GET") in _METHODS else "OTHER"
        counted, took = _series(endpoint, method, status)
        counted.inc()
        took.observe(seconds)
        line: dict[str, Any] = {
            "method": method, "route": endpoint, "path": scope["path"][:512], "status": status,
            "duration_ms": round(seconds * 1000, 1), "bytes": sent,
        }  # fmt: skip
        if "trackshift.code" in scope:
            line["code"] = scope["trackshift.code"]
        if scope["path"] in ALWAYS_SERVED:
            log.debug("http_request", **line)
        else:
            info_line("api.access", "http_request", line)


class Cors(CORSMiddleware):
    """Starlette's, its refusals in the contract's form."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            headers = Headers(scope=scope)
            if "origin" in headers and "access-control-request-method" in headers:
                answer = self.preflight_response(headers)
                if answer.status_code >= 400:
                    kept = {k: v for k, v in answer.headers.items() if k not in ("content-length", "content-type")}
                    refusal = MalformedRequest("Cross-origin request refused: origin, method or headers not allowed.")
                    answer = problem_response(scope, refusal, kept)
                await answer(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


class UnexpectedErrors:
    """Turns an exception that no handler took into a 500 problem; inside CORS, so that browsers may read it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except ClientDisconnect:
            pass  # there is no client to answer
        except Exception as error:
            response: Response = internal_error(scope, error)  # logs it, once
            if not started:
                await response(scope, receive, send)
            # else: returning without the last body message makes the server close the connection, and the
            # client sees a short body instead of a whole one that is wrong.


class Head:
    """Answers HEAD as GET without the body; endpoints that must know see `scope["trackshift.head"]`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        # A copy: by its scope's method the server decides whether a body must follow.
        inner = {**scope, "method": "GET", "trackshift.head": True}

        async def headers_only(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self.app(inner, receive, headers_only)
        finally:
            for key in ("route", "trackshift.code"):
                if key in inner:
                    scope[key] = inner[key]
