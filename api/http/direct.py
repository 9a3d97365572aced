"""Endpoints that are called without FastAPI's solving of their dependencies, which is half of a hot read's CPU time.

The plan is made of what FastAPI found in the endpoint's signature, values are validated by FastAPI's own fields, and
whatever does not fit is left to FastAPI, which says what is wrong. So documents, errors and types are as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from fastapi import params
from fastapi.dependencies.models import Dependant
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
F = TypeVar("F", bound=Callable[..., Any])
_MARK = "called_directly"


class _Unfit(Exception):
    """A value is missing or wrong."""


def direct(endpoint: F) -> F:
    """For an endpoint that returns a Response, and takes path and query parameters, one JSON body, the request, and async
    dependencies without a `yield`."""
    setattr(endpoint, _MARK, True)
    return endpoint


def is_direct(endpoint: Callable[..., Any]) -> bool:
    return getattr(endpoint, _MARK, False)


class _Plan:
    """How one function's arguments are found."""

    def __init__(self, dependant: Dependant) -> None:
        others = (
            dependant.header_params, dependant.cookie_params, dependant.response_param_name,
            dependant.background_tasks_param_name, dependant.security_scopes_param_name,
            dependant.body_params[1:], *(not _whole(field) for field in dependant.body_params),
        )  # fmt: skip
        if any(others) or dependant.call is None or not iscoroutinefunction(dependant.call):
            raise TypeError(f"{dependant.call}: takes more than @direct can give")
        self.call: Callable[..., Any] = dependant.call
        self._body = dependant.body_params[0] if dependant.body_params else None
        self._request = dependant.request_param_name
        self._below = [(str(sub.name), _Plan(sub)) for sub in dependant.dependencies]
        self._path = [(field.name, field.alias, field) for field in dependant.path_params]
        self._query = [(field.name, field.alias, field) for field in dependant.query_params]

    async def arguments(self, request: Request, query: Mapping[str, str]) -> dict[str, Any]:
        """Raises _Unfit, and what the dependencies raise."""
        found: dict[str, Any] = {}
        for name, plan in self._below:
            found[name] = await plan.call(**await plan.arguments(request, query))
        for name, alias, field in self._path:
            found[name] = _valid(field, request.path_params[alias], ("path", alias))
        for name, alias, field in self._query:
            if alias in query:
                found[name] = _valid(field, query[alias], ("query", alias))
            elif field.field_info.is_required():
                raise _Unfit
            else:
                found[name] = field.default
        if self._body is not None:
            found[self._body.name] = _valid(self._body, getattr(request, "_json", None), ("body",))
        if self._request is not None:
            found[self._request] = request
        return found


def _whole(field: Any) -> bool:
    """Whether the parameter is the JSON body as it is, and not a part of it, nor a form."""
    return type(field.field_info) is params.Body and not field.field_info.embed


def _valid(field: Any, value: Any, place: tuple[str, ...]) -> Any:
    if value is None:
        raise _Unfit
    found, errors = field.validate(value, {}, loc=place)
    if errors:
        raise _Unfit
    return found


def directly(dependant: Dependant, handler: Handler) -> Handler:
    """The handler of a @direct endpoint; `handler` is FastAPI's. Raises TypeError for an endpoint that cannot be one."""
    plan = _Plan(dependant)

    async def call(request: Request) -> Response:
        try:
            query = request.query_params if request.scope.get("query_string") else {}
            arguments = await plan.arguments(request, query)
        except _Unfit:
            return await _by_fastapi(request, handler)
        found: Response = await plan.call(**arguments)
        return found

    return call


async def _by_fastapi(request: Request, handler: Handler) -> Response:
    async with AsyncExitStack() as stack:  # which `application` leaves out
        request.scope["fastapi_inner_astack"] = request.scope["fastapi_function_astack"] = stack
        return await handler(request)


def application(handler: Handler) -> ASGIApp:
    """The route's application: FastAPI's without its stacks for dependencies with a `yield` and its look at errors, which
    Starlette's ExceptionMiddleware answers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response = await handler(request)
        await response(scope, receive, send)

    return app
