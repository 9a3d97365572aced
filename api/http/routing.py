"""The route class of every endpoint: checks before FastAPI reads parameters and body."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic.warnings import UnsupportedFieldAttributeWarning
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from api.http.access.check import authorize, principal, share
from api.http.access.rules import Rule, UndeclaredAccess, rule_of
from api.http.access.shown import shown
from api.http.body import read_json
from api.http.direct import application, directly, is_direct
from api.http.idempotency import check_key, serve, takes_key
from api.http.socket_route import SocketRoute
from api.http.state import app_state
from api.http.validation import MAX_ERRORS, SHOWN_NAME, invalid_fields
from utils.exceptions import FieldError, MalformedRequest

# FastAPI silences it where it makes its fields; those of our models are made at their first use (models/schemas/base.py).
warnings.filterwarnings("ignore", category=UnsupportedFieldAttributeWarning)

MAX_QUERY_FIELDS = 100
PUBLIC_JSON_BYTES = 32_768  # from callers that nobody has judged yet: a credential is the most that they send


def query_names(dependant: Dependant) -> set[str]:
    """The query parameters of an endpoint and of what it depends on."""
    below = (query_names(sub) for sub in dependant.dependencies)
    return {param.alias for param in dependant.query_params}.union(*below)


def check_query(query: bytes, known: frozenset[str]) -> None:
    """Refuses unknown, repeated and empty query parameters, NUL characters, and what is not UTF-8."""
    if not query:
        return
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:  # UnicodeDecodeError is one
        raise MalformedRequest("The query string cannot be parsed.") from None
    errors = []
    for name, times in Counter(name for name, _ in pairs).items():
        shown = name if SHOWN_NAME.match(name) else ""
        if name not in known:
            errors.append(FieldError("query", shown, "extra_forbidden", "is not a known query parameter"))
        elif times > 1:
            errors.append(FieldError("query", name, "repeated", "is given more than once"))
        elif any(value == "" for other, value in pairs if other == name):
            errors.append(FieldError("query", name, "empty", "has no value"))
        elif any("\x00" in value for other, value in pairs if other == name):  # PostgreSQL's text cannot hold it
            errors.append(FieldError("query", name, "nul_character", "has a NUL character"))
    if errors:
        raise invalid_fields(errors[:MAX_ERRORS])


class StrictRoute(APIRoute):
    """Access, admission, query, JSON and Idempotency-Key are checked here, in this order, before FastAPI sees the request.

    Raises UndeclaredAccess, when it is made, for an endpoint without `@needs` or `@public`.
    """

    rule: Rule
    checks_query: ClassVar[bool] = True

    literal_paths: ClassVar[set[str]] = set()  # of all routes: paths without parameters

    def __init__(self, path: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(path, *args, **kwargs)
        if is_direct(self.endpoint):
            self.app = application(self._strict)
        if "{" not in path:
            self.literal_paths.add(path)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As Starlette's, but `/cameras/probe` never matches `/cameras/{camera_id}`: another method than POST is 405."""
        match, child = super().matches(scope)
        if match is not Match.NONE and child.get("path_params") and scope["path"] in self.literal_paths:
            return Match.NONE, {}
        return match, child

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        if is_direct(self.endpoint):
            handler = directly(self.dependant, handler)
        self.rule = rule_of(self.endpoint)
        rule, path, status, action = self.rule, self.path, self.status_code or 200, self.operation_id or self.name
        known = frozenset(query_names(self.dependant))
        takes_json = self.body_field is not None
        reads_itself = not takes_json and "requestBody" in (self.openapi_extra or {})
        keyed = takes_key(self.methods or set(), self.path)

        async def strict(request: Request) -> Response:
            state = app_state(request)
            await authorize(request, rule, path, status, action)
            state.admit(path)
            if self.checks_query:
                check_query(request.scope.get("query_string", b""), known)
            if keyed:
                check_key(request)
            body: tuple[bytes, Any] | None = None if reads_itself else (b"", None)
            with ExitStack() as in_hand:  # the body is in memory until the answer is made
                if takes_json:
                    api = state.settings.API
                    limit = min(api.MAX_JSON_BYTES, PUBLIC_JSON_BYTES) if rule.public else api.MAX_JSON_BYTES
                    own = in_hand.enter_context(share(request, "JSON bytes", api.MAX_JSON_IN_FLIGHT, 0))
                    body = await read_json(request, api, limit, in_hand.enter_context(state.json.hold(own)))
                    # The cache of Request.body() and .json(), which FastAPI calls.
                    request._body, request._json = body
                response = await (serve(request, handler, body) if keyed else handler(request))
            return response if rule.public else shown(response, principal(request))

        self._strict = strict
        return strict


def json_answer(body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    """A body that is JSON already: FastAPI would check and write it a second time (docs/performance.md)."""
    return Response(body, status, headers=headers, media_type="application/json")


def declared_routes(app: FastAPI) -> list[StrictRoute]:
    """Every route of the application. Raises UndeclaredAccess for one that nobody checks."""
    found = []
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if isinstance(route, SocketRoute):
            continue  # it has its rule since it was made
        if not isinstance(route, StrictRoute):
            raise UndeclaredAccess(f"{context.path}: not made by make_router, so nobody checks its callers")
        found.append(route)
    return found


def make_router(prefix: str = "", **kwargs: Any) -> APIRouter:
    """A router of StrictRoutes. The prefix is part of each route's own path, so metrics get whole templates."""
    return APIRouter(prefix=prefix, **{"route_class": StrictRoute, **kwargs}, redirect_slashes=False)
