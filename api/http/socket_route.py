"""The route class of WebSockets: the handshake is checked as every request is, and refused as one, by a problem.

A handshake is an HTTP request, and its log line and metrics are those of one, with status 101 when it succeeds. What the
connection holds then, and who opened it, is the endpoint's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import Message, Receive, Scope, Send

from api.http.access.check import PLACE, Identify, authorize
from api.http.access.rules import Rule, rule_of
from api.http.errors import internal_error, problem_response
from api.http.state import app_state
from utils.exceptions import IngestionException
from utils.ids import new_id
from utils.logger import get_logger
from utils.metrics import HTTP_DURATION, HTTP_REQUESTS

log = get_logger("api.access")

_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,128}\Z")
# Judges the handshake further and says what serves the connection; it raises what refuses it.
Endpoint = Callable[[Request], Awaitable[Callable[[Receive, Send], Awaitable[None]]]]


class SocketRoute(BaseRoute):
    """Raises UndeclaredAccess, when it is made, for an endpoint without `@needs` or `@public`."""

    def __init__(self, path: str, endpoint: Endpoint, subprotocol: str, identify: Identify) -> None:
        self.path, self.endpoint, self._subprotocol, self._identify = path, endpoint, subprotocol, identify
        self.rule: Rule = rule_of(endpoint)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "websocket" and scope["path"] == self.path:
            return Match.FULL, {"endpoint": self.endpoint, "path_params": {}}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.match(given) else str(new_id())
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        extra: dict[str, str] = {"X-Request-ID": request_id}
        scope.update({"trackshift.request_id": request_id, "trackshift.headers": extra, PLACE: ExitStack()})
        began = time.perf_counter()

        async def answered(message: Message) -> None:
            """The handshake's answer, written down as an HTTP request's."""
            status = message.get("status", 101)
            if message["type"] in ("websocket.accept", "websocket.http.response.start"):
                own = [(name.lower().encode(), value.encode()) for name, value in extra.items()]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
                self._account(scope, status, time.perf_counter() - began)
            await send(message)

        serve = None
        with scope[PLACE]:  # a request in flight only until it is answered
            try:
                request = Request({**scope, "type": "http", "method": "GET"})
                await authorize(request, self.rule, self.path, 101, "open_socket", self._identify)
                app_state(request).admit(self.path)
                serve = await self.endpoint(request)
            except IngestionException as error:
                await problem_response(scope, error, None)(scope, receive, answered)
            except Exception as error:
                await internal_error(scope, error)(scope, receive, answered)
        if serve is not None:
            offered = scope.get("subprotocols", ())
            chosen = self._subprotocol if self._subprotocol in offered else None

            async def accepting(message: Message) -> None:
                if message["type"] == "websocket.accept":
                    await answered({**message, "subprotocol": chosen})
                else:
                    await send(message)

            await serve(receive, accepting)

    def _account(self, scope: Scope, status: int, seconds: float) -> None:
        HTTP_REQUESTS.labels(endpoint=self.path, method="GET", status=f"{status:03d}").inc()
        HTTP_DURATION.labels(endpoint=self.path, method="GET").observe(seconds)
        extra: dict[str, Any] = {"code": scope["trackshift.code"]} if "trackshift.code" in scope else {}
        log.info(
            "http_request", method="GET", route=self.path, path=scope["path"], status=status,
            duration_ms=round(seconds * 1000, 1), bytes=0, **extra,
        )  # fmt: skip
