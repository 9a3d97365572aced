"""/api/v1/me, /api/v1/session and the protected resource's metadata: who calls, and browsers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.http import examples
from api.http.access.address import over_tls
from api.http.access.check import WhoDep, actor_of, refuse
from api.http.access.cookie import clear_cookie, cookie_of, csrf_token, set_cookie
from api.http.access.rules import needs, public
from api.http.dependencies import ServicesDep, StateDep
from api.http.openapi import answer, problems
from api.http.routing import make_router
from models.access import ANONYMOUS, Scope
from models.schemas import BrowserSessionState, Me, ProtectedResource, SessionCreate
from services.reads.serializers.access import to_me
from utils.exceptions import Unauthorized

router = make_router(tags=["access"])


@router.get(
    "/api/v1/me",
    operation_id="me",
    summary="Who calls",
    response_model=Me,
    responses={200: answer("The caller, its scopes and cameras.", examples.ME), **problems()},
)
@needs()
async def me(request: Request, who: WhoDep) -> Any:
    value = cookie_of(request) if who.session_id is not None else None
    return to_me(who, csrf_token(value) if value is not None else None)


@router.get(
    "/api/v1/session",
    operation_id="get_session",
    summary="Whether the browser session holds",
    response_model=BrowserSessionState,
    responses={
        200: answer("Whether credentials are asked for, and whose session it is.", {"login": True, "caller": examples.ME}),
        **problems(),
    },
)
@public
async def get_session(request: Request, services: ServicesDep) -> Any:
    """Never 401: a page asks it before it shows its login. `caller` is null without a session that holds."""
    access = services.access
    if not access.on:
        return BrowserSessionState(login=False, caller=to_me(ANONYMOUS, None))
    value = cookie_of(request)
    if value is None:
        return BrowserSessionState(login=True, caller=None)
    try:
        who = await access.credentials.session(value)
    except Unauthorized:
        return BrowserSessionState(login=True, caller=None)
    return BrowserSessionState(login=True, caller=to_me(who, csrf_token(value)))


@router.post(
    "/api/v1/session",
    status_code=204,
    operation_id="open_session",
    summary="Open a browser session",
    responses={
        204: {
            "description": "The cookie is set: HttpOnly, SameSite=Strict, `__Host-` over TLS.",
            "headers": {"Set-Cookie": {"description": "The session.", "schema": {"type": "string"}}},
        },
        **problems("unauthorized", "rate_limited", "payload_too_large", "unsupported_media_type", "request_timeout"),
    },
    openapi_extra={"requestBody": {"content": {"application/json": {"example": {"credential": "tsk_…"}}}}},
)
@public
async def open_session(request: Request, body: SessionCreate, services: ServicesDep) -> Response:
    """The session ends with its credential, and after AUTH__SESSION_TTL."""
    access = services.access
    actor = actor_of(request, ANONYMOUS, 204, "session.create")
    try:
        value, expires = await access.open_session(body.credential, actor)
    except Unauthorized as error:
        if access.on:
            await refuse(request, access, error, actor.address or "-")
        raise
    response = Response(status_code=204)
    set_cookie(request, response, value, max(0, int((expires - datetime.now(UTC)).total_seconds())))
    return response


@router.delete(
    "/api/v1/session",
    status_code=204,
    operation_id="end_session",
    summary="End the browser session",
    responses=problems(),
)
@needs()
async def end_session(request: Request, services: ServicesDep, who: WhoDep) -> Response:
    """In every process. With another credential than a session's: 204, and nothing is ended."""
    await services.access.end_session(who)
    response = Response(status_code=204)
    clear_cookie(request, response)
    return response


@router.get(
    "/.well-known/oauth-protected-resource",
    operation_id="protected_resource",
    summary="Metadata of the protected resource (RFC 9728)",
    response_model=ProtectedResource,
    responses={
        200: answer("Where tokens come from, and the scopes.", examples.RESOURCE),
        **problems("invalid_request", common=False),
    },
)
@public
async def protected_resource(request: Request, state: StateDep) -> Any:
    settings = state.settings
    scheme = "https" if over_tls(request.scope, settings.API.TRUSTED_PROXIES) else "http"
    jwt = settings.AUTH.MODE in ("jwt", "both")
    return ProtectedResource(
        resource=f"{scheme}://{request.headers.get('host', 'localhost')}",
        authorization_servers=[settings.AUTH.JWT_ISSUER] if jwt else [],
        scopes_supported=[scope.value for scope in Scope],
        bearer_methods_supported=["header"],
        resource_name="TrackShift Ingestion",
    )
