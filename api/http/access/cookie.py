"""The browser session's cookie, and the token that proves that a page of this origin asks."""

from __future__ import annotations

import hashlib
import hmac

from starlette.requests import Request
from starlette.responses import Response

from api.http.access.address import over_tls
from api.http.state import app_state

PLAIN, SECURE = "trackshift-session", "__Host-trackshift-session"
_CROSS = ("cross-site", "same-site")


def _name(request: Request) -> tuple[str, bool]:
    secure = over_tls(request.scope, app_state(request).settings.API.TRUSTED_PROXIES)
    return (SECURE if secure else PLAIN), secure


def cookie_of(request: Request) -> str | None:
    """The session cookie's value, where a browser sends it for a page of this very origin; else None."""
    if request.headers.get("sec-fetch-site", "").lower() in _CROSS:
        return None
    return request.cookies.get(_name(request)[0]) or None


def csrf_token(value: str) -> str:
    """The token of a session, derived from the cookie's value, which no script can read."""
    return hmac.digest(value.encode(), b"csrf", hashlib.sha256).hex()


def csrf_holds(request: Request, value: str) -> bool:
    given = request.headers.get("x-csrf-token", "")
    return hmac.compare_digest(given.encode(), csrf_token(value).encode())


def set_cookie(request: Request, response: Response, value: str, max_age: int) -> None:
    name, secure = _name(request)
    response.set_cookie(name, value, max_age=max_age, path="/", secure=secure, httponly=True, samesite="strict")


def clear_cookie(request: Request, response: Response) -> None:
    name, secure = _name(request)
    response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="strict")
