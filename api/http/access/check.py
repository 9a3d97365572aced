"""The check of a request, before a byte of its body is read and before a kept answer is replayed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends
from starlette.requests import Request

from api.http.access.address import client_address
from api.http.access.cookie import cookie_of, csrf_holds
from api.http.access.rules import Rule
from api.http.state import app_state
from models.access import ACTOR, ANONYMOUS, Actor, Principal
from services.access.shares import UNSHARED, Holding
from utils.exceptions import CsrfFailed, Forbidden, RateLimited, ShuttingDown, Unauthorized
from utils.ids import new_id

if TYPE_CHECKING:
    from services.access.service import Access
else:
    Access = Any

PLACE = "trackshift.place"  # what a request holds until its answer is sent
_PRINCIPAL, _ADDRESS = "trackshift.principal", "trackshift.address"
Identify = Callable[[Request, Access], Awaitable[Principal]]
READS = ("GET", "HEAD")
UNLIMITED = ("/health", "/health/live", "/health/ready", "/metrics")


async def authorize(
    request: Request, rule: Rule, path: str, status: int, action: str, identify: Identify | None = None
) -> None:
    """Lets the request pass or raises Unauthorized, Forbidden, CsrfFailed, RateLimited, DatabaseUnavailable, ShuttingDown.

    `path`, `status`, `action`: the route's template, the status of its success, its name in the audit. `identify`: from a
    request to its principal, where that is not by header or cookie.
    """
    state = app_state(request)
    settings = state.settings
    address = client_address(request.scope, settings.API.TRUSTED_PROXIES)
    request.scope[_ADDRESS] = address
    access = state.services.access if state.services is not None else None
    who = ANONYMOUS
    if settings.AUTH.MODE != "off" and not rule.public:
        if access is None:
            raise ShuttingDown("The service is not running yet, or no longer. Try again.")
        who = await _judged(request, access, rule, address, identify or _principal)
    if not rule.public:
        request.scope[_PRINCIPAL] = who
    if access is not None and path not in UNLIMITED:
        await _count(request, access, who, address)
        if not rule.public:
            place: ExitStack = request.scope[PLACE]
            place.enter_context(share(request, "requests in flight", settings.API.MAX_CONCURRENT_REQUESTS))
    if settings.AUTH.MODE != "off" and request.method not in READS:
        ACTOR.set(actor_of(request, who, status, action))


def actor_of(request: Request, who: Principal, status: int, action: str) -> Actor:
    """Who is written down for what this request changes."""
    keep = app_state(request).settings.AUDIT.RETENTION
    trace = str(request.scope.get("trackshift.request_id", ""))
    return Actor(new_id(), who.subject, who.kind, request.scope[_ADDRESS], trace, status, action, keep)


async def _judged(request: Request, access: Access, rule: Rule, address: str, identify: Identify) -> Principal:
    try:
        who = await identify(request, access)
        if not who.has(*rule.scopes):
            raise Forbidden("The credential lacks the scope for this.", details={"scope": " ".join(sorted(rule.scopes))})
    except (Unauthorized, Forbidden, CsrfFailed) as error:
        await refuse(request, access, error, address)
        raise
    return who


async def refuse(request: Request, access: Access, error: Unauthorized | Forbidden | CsrfFailed, address: str) -> None:
    """Counts a wrong credential and notes the refusal. Raises RateLimited for an address with too many."""
    status = 401 if isinstance(error, Unauthorized) else 403
    if error.details.get("given") or status == 403:
        access.refusals.note(address, error.code, status, str(request.scope.get("trackshift.request_id", "")))
    if error.details.get("given"):
        await access.rates.failed(address)


async def _principal(request: Request, access: Access) -> Principal:
    if "authorization" in request.headers:  # before a cookie
        return await by_header(request, access)
    value = cookie_of(request)
    if value is None:
        raise Unauthorized
    who = await access.credentials.session(value)
    if request.method not in READS and not csrf_holds(request, value):
        raise CsrfFailed
    return who


async def by_header(request: Request, access: Access) -> Principal:
    """Of the Authorization header, which is there. Raises Unauthorized, DatabaseUnavailable."""
    given = request.headers.getlist("authorization")
    scheme, _, credential = given[0].partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not credential.strip():
        raise Unauthorized(details={"given": True})
    return await access.credentials.identify(credential.strip())


async def _count(request: Request, access: Access, who: Principal, address: str) -> None:
    name = caller_name(who, address)
    extra: dict[str, str] = request.scope.get("trackshift.headers", {})
    try:
        quota = await access.rates.request("read" if request.method in READS else "write", name)
    except RateLimited as error:
        extra.update(error.details["quota"].headers())
        raise
    if quota is not None:
        extra.update(quota.headers())


async def count_bytes(request: Request, size: int) -> None:
    """Counts an upload's bytes before they are read. Raises RateLimited."""
    services = app_state(request).services
    if services is None or services.access is None:
        return
    access: Access = services.access
    extra: dict[str, str] = request.scope.get("trackshift.headers", {})
    try:
        quota = await access.rates.upload(size, caller_name(principal(request), request.scope[_ADDRESS]))
    except RateLimited as error:
        extra.update(error.details["quota"].headers())
        raise
    if quota is not None:
        extra.update(quota.headers())


def caller_name(who: Principal, address: str) -> str:
    """Whom rates are counted by: the principal, else the address."""
    return f"address:{address}" if who is ANONYMOUS else who.owner


def principal(request: Request) -> Principal:
    """Who calls; of a route with `@needs`."""
    found = request.scope[_PRINCIPAL]
    assert isinstance(found, Principal)
    return found


def allow_camera(who: Principal, *camera_ids: str) -> None:
    """For writes that name a camera: raises Forbidden when it is not the principal's, whether it exists or not."""
    if not who.cameras.covers_all(camera_ids):
        raise Forbidden("The credential is not for this camera.")


async def ended(request: Request) -> None:
    """Returns when the caller may no longer do what it began (services.access); for answers that take time."""
    state = app_state(request)
    who = principal(request)
    if state.services is None or state.services.access is None:
        await asyncio.Event().wait()
    else:
        await state.services.access.ended(who)


def credential_ended() -> Unauthorized:
    """What an answer that takes time says when `ended` has returned."""
    return Unauthorized("The credential has expired or was revoked.", details={"given": True})


def waiting(request: Request) -> Holding:
    """A place among a principal's requests that wait for something; half of those in flight are left for the others."""
    return share(request, "waits", max(1, app_state(request).settings.API.MAX_CONCURRENT_REQUESTS // 2))


def share(request: Request, what: str, bound: int, amount: int = 1) -> Holding:
    """`amount` of `bound`, and what it grows to; a principal (else an address) may hold its share (LIMITS__SHARE). Raises
    RateLimited."""
    services = app_state(request).services
    shares = UNSHARED if services is None or services.access is None else services.access.shares
    who = request.scope.get(_PRINCIPAL, ANONYMOUS)
    return shares.hold(what, caller_name(who, request.scope[_ADDRESS]), bound, amount=amount)


async def get_principal(request: Request) -> Principal:
    return principal(request)


WhoDep = Annotated[Principal, Depends(get_principal)]
