"""The route class of WebSockets: the handshake is checked as every request is, and refused as one, by a problem.

What the connection holds then, and who opened it, is the endpoint's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import Message, Receive, Scope, Send

from api.http.access.check import PLACE, Identify, authorize
from api.http.access.rules import Rule, rule_of
from api.http.errors import internal_error, problem_response
from api.http.state import app_state
from utils.exceptions import IngestionException

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
        scope["route"] = self
        scope[PLACE] = ExitStack()
        serve = None
        with scope[PLACE]:  # a request in flight only until it is answered
            try:
                request = Request({**scope, "type": "http", "method": "GET"})
                await authorize(request, self.rule, self.path, 101, "open_socket", self._identify)
                app_state(request).admit(self.path)
                serve = await self.endpoint(request)
            except IngestionException as error:
                await problem_response(scope, error)(scope, receive, send)
            except Exception as error:
                await internal_error(scope, error)(scope, receive, send)
        if serve is None:
            return
        chosen = self._subprotocol if self._subprotocol in scope.get("subprotocols", ()) else None

        async def accepting(message: Message) -> None:
            if message["type"] == "websocket.accept":
                message = {**message, "subprotocol": chosen}
            await send(message)

        await serve(receive, accepting)
