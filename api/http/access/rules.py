"""What a route asks of its caller: declared at the endpoint, required of every route.

@router.get(...)
@needs(Scope.FRAMES_READ)
async def get_frame(...)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from models.access import Scope

F = TypeVar("F", bound=Callable[..., Any])
_NAME = "__access__"
BEARER, COOKIE = "bearer", "session"  # names of the security schemes in /openapi.json
SCHEMES: dict[str, Any] = {
    BEARER: {
        "type": "http", "scheme": "bearer",
        "description": "An API key (`tsk_…`), the bootstrap secret or a JWT. Each operation names the scopes it needs.",
    },
    COOKIE: {
        "type": "apiKey", "in": "cookie", "name": "trackshift-session",
        "description": "A browser session (POST /api/v1/session); `__Host-trackshift-session` over TLS. All but GET and "
        "HEAD needs X-CSRF-Token too.",
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """`public`: anybody. Else a valid credential with all of `scopes`."""

    public: bool
    scopes: tuple[Scope, ...] = ()

    def openapi(self) -> list[dict[str, list[str]]]:
        """The operation's `security`."""
        scopes = [scope.value for scope in self.scopes]
        return [] if self.public else [{BEARER: scopes}, {COOKIE: scopes}]


class UndeclaredAccess(Exception):
    """A route says nothing about its callers: the application does not start."""


def needs(*scopes: Scope) -> Callable[[F], F]:
    """A valid credential with all of these scopes; without scopes any valid credential."""

    def declare(endpoint: F) -> F:
        setattr(endpoint, _NAME, Rule(public=False, scopes=scopes))
        return endpoint

    return declare


def public(endpoint: F) -> F:
    """Open to anybody, with access on too."""
    setattr(endpoint, _NAME, Rule(public=True))
    return endpoint


def rule_of(endpoint: Callable[..., Any]) -> Rule:
    """Raises UndeclaredAccess."""
    rule = getattr(endpoint, _NAME, None)
    if not isinstance(rule, Rule):
        raise UndeclaredAccess(f"{endpoint.__module__}.{endpoint.__qualname__} declares no access: @needs(...) or @public")
    return rule
