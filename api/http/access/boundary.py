"""Which names this service answers to, and which pages may make it change something. ASGI middleware.

A page that has its own name resolve to this host's address (DNS rebinding) is of the service's origin for a browser: only
the Host header tells. A page elsewhere can send a form without asking: only the Origin header tells.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.errors import problem_response
from config import Settings
from utils.exceptions import Forbidden

PROBES = ("/health/live", "/health/ready")  # orchestrators ask by any name
_CHANGES = ("POST", "PATCH", "DELETE", "PUT")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,50}\]|[A-Za-z0-9._-]{1,255})(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


@lru_cache(maxsize=256)
def _split(host: str) -> tuple[str, str]:
    """(name without brackets and final dot, port or ""); ("", "") for what is no host."""
    found = _HOST.fullmatch(host)
    return (found[1].strip("[]").rstrip(".").lower(), found[2] or "") if found else ("", "")


def _loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Boundary:
    """Refuses foreign hosts and foreign origins with 403."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        api = settings.API
        self.app = app
        self._any = api.ALLOWED_HOSTS is None and settings.AUTH.MODE != "off"
        self._by_default = api.ALLOWED_HOSTS is None
        self._names = {
            _split(name)[0] for name in (api.ALLOWED_HOSTS or [api.HOST if ":" not in api.HOST else f"[{api.HOST}]"])
        }
        self._wildcard = api.HOST in ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
        self._origins = frozenset(api.CORS_ORIGINS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (reason := self._refusal(scope)) is not None:
            await problem_response(scope, Forbidden(reason))(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if scope["path"] not in PROBES and not self._known_host(hosts, scope):
            return "This service does not answer to that Host (API__ALLOWED_HOSTS)."
        changes = scope["type"] == "websocket" or scope["method"] in _CHANGES
        if not changes:
            return None
        origins = Headers(scope=scope).getlist("origin")
        if origins and not (len(origins) == 1 and self._known_origin(origins[0], hosts)):
            return "Pages of that Origin may not do this (API__CORS_ORIGINS)."
        return None

    def _known_host(self, hosts: list[str], scope: Scope) -> bool:
        if len(hosts) > 1:
            return False
        if not hosts:  # every browser sends one
            return True
        name = _split(hosts[0])[0]
        if not name or self._any:  # any name, but a name: /.well-known/oauth-protected-resource repeats it
            return bool(name)
        if name in self._names or (self._by_default and _loopback(name)):
            return True
        # Listening on every address, the one that was connected to is as good as API__HOST; no page can be named so.
        server = scope.get("server")
        return self._by_default and self._wildcard and server is not None and name == str(server[0]).lower()

    def _known_origin(self, origin: str, hosts: list[str]) -> bool:
        if origin in self._origins or "*" in self._origins:
            return True
        scheme, separator, authority = origin.partition("://")
        if not separator or not hosts or scheme not in _DEFAULT_PORTS:
            return False
        name, port = _split(authority)
        own, own_port = _split(hosts[0])
        default = _DEFAULT_PORTS[scheme]
        return bool(name) and (name, port or default) == (own, own_port or default)
