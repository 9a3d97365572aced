"""The route class of every endpoint: what is checked before FastAPI reads parameters and body."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from api.body import pace_of, read_json
from api.state import app_state
from api.validation import MAX_ERRORS, invalid_fields
from utils.exceptions import FeatureNotImplemented, FieldError, MalformedRequest

MAX_QUERY_FIELDS = 100
# A structured-field string ("k") or the bare key; visible ASCII. A bare comma would be two keys in one header.
_QUOTED_KEY = re.compile(r'^"((?:[\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"$')
_BARE_KEY = re.compile(r"^[\x21\x23-\x2b\x2d-\x7e]{1,255}$")
_NAME = re.compile(r"^[A-Za-z0-9_.\-\[\]]{1,64}$")


def query_names(dependant: Dependant) -> set[str]:
    """The query parameters of an endpoint and of what it depends on."""
    below = (query_names(sub) for sub in dependant.dependencies)
    return {param.alias for param in dependant.query_params}.union(*below)


def check_query(query: bytes, known: frozenset[str]) -> None:
    """Refuses unknown, repeated and empty query parameters, and what is not UTF-8."""
    if not query:
        return
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:  # UnicodeDecodeError is one
        raise MalformedRequest("The query string cannot be parsed.") from None
    errors = []
    for name, times in Counter(name for name, _ in pairs).items():
        shown = name if _NAME.match(name) else ""
        if name not in known:
            errors.append(FieldError("query", shown, "extra_forbidden", "is not a known query parameter"))
        elif times > 1:
            errors.append(FieldError("query", name, "repeated", "is given more than once"))
        elif any(value == "" for other, value in pairs if other == name):
            errors.append(FieldError("query", name, "empty", "has no value"))
    if errors:
        raise invalid_fields(errors[:MAX_ERRORS])


def check_idempotency_key(request: Request) -> None:
    """400 for a malformed key, 501 for a good one: safe retries are not built, and nothing may pretend they are."""
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return
    if len(keys) > 1 or not (_QUOTED_KEY.match(keys[0].strip()) or _BARE_KEY.match(keys[0].strip())):
        raise MalformedRequest("Idempotency-Key: one key of 1-255 visible ASCII characters.")
    raise FeatureNotImplemented("Idempotency-Key is not built yet: without it a retry may store twice.")


class StrictRoute(APIRoute):
    """Admission, query and JSON are checked here, in this order, before FastAPI sees the request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        known = frozenset(query_names(self.dependant))
        takes_json = self.body_field is not None
        takes_keys = "POST" in (self.methods or ()) and (
            self.path.startswith("/api/v1/ingest/") or self.path.endswith("/snapshot")
        )

        async def strict(request: Request) -> Response:
            state = app_state(request)
            state.admit(self.path)
            check_query(request.scope.get("query_string", b""), known)
            if takes_keys:
                check_idempotency_key(request)
            if takes_json:
                api = state.settings.API
                raw, value = await read_json(request, pace_of(api), api.MAX_JSON_BYTES)
                # Where Request.body() and .json() keep what they have read: FastAPI asks those.
                request._body = raw
                request._json = value
            return await handler(request)

        return strict


def make_router(prefix: str = "", **kwargs: Any) -> APIRouter:
    """A router of StrictRoutes. The prefix is part of each route's own path, so metrics get whole templates."""
    return APIRouter(prefix=prefix, route_class=StrictRoute, redirect_slashes=False, **kwargs)
