"""Who calls, and what the caller may do: scopes, cameras, the principal, the actor of an audit row. Plain values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID, uuid5

MAX_CAMERA_PATTERNS = 1000
_PATTERN = re.compile(r"^(?:[A-Za-z0-9._-]{1,100}|[A-Za-z0-9._-]{0,99}\*)\Z")


class Scope(StrEnum):
    """What a credential may be good for. `admin` includes all the others, for all cameras."""

    INGEST_WRITE = "ingest:write"
    INGEST_READ = "ingest:read"
    FRAMES_READ = "frames:read"
    FRAMES_DELETE = "frames:delete"
    CAMERAS_READ = "cameras:read"
    CAMERAS_WRITE = "cameras:write"
    EVENTS_READ = "events:read"
    METRICS_READ = "metrics:read"
    ADMIN = "admin"


ALL_SCOPES = frozenset(Scope)
UNBOUND_SCOPES = frozenset({Scope.ADMIN, Scope.METRICS_READ})  # cannot be narrowed to cameras


@dataclass(frozen=True, slots=True)
class CameraGrant:
    """The cameras that a principal is given: exact ids, or a prefix followed by `*`. `patterns` None: all cameras."""

    patterns: tuple[str, ...] | None

    @classmethod
    def of(cls, patterns: Iterable[str] | None) -> CameraGrant:
        """Raises ValueError for a pattern that is neither a camera id nor a prefix with `*`."""
        if patterns is None:
            return ALL_CAMERAS
        found = tuple(sorted(set(patterns)))
        if len(found) > MAX_CAMERA_PATTERNS:
            raise ValueError(f"more than {MAX_CAMERA_PATTERNS} cameras")
        if not all(_PATTERN.match(pattern) for pattern in found):
            raise ValueError("not a camera id, nor a prefix followed by *")
        return cls(found)

    @property
    def exact(self) -> list[str]:
        return [pattern for pattern in self.patterns or () if not pattern.endswith("*")]

    @property
    def prefixes(self) -> list[str]:
        return [pattern[:-1] for pattern in self.patterns or () if pattern.endswith("*")]

    def covers(self, camera_id: str) -> bool:
        """Whether the camera is among them."""
        if self.patterns is None:
            return True
        return any(
            camera_id.startswith(pattern[:-1]) if pattern.endswith("*") else camera_id == pattern
            for pattern in self.patterns
        )

    def covers_all(self, camera_ids: Iterable[str]) -> bool:
        return all(self.covers(camera_id) for camera_id in camera_ids)


ALL_CAMERAS = CameraGrant(None)
NO_CAMERAS = CameraGrant(())

Kind = Literal["key", "jwt", "session", "anonymous"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls.

    `owner` names whom idempotency keys, upload sessions, cursors and shares belong to: the same for a key before and
    after its rotation, and for a browser session that was opened with it. `session_id`: the browser session's row.
    """

    subject: str
    kind: Kind
    owner: str
    scopes: frozenset[Scope]
    cameras: CameraGrant
    expires_at: datetime | None = None
    session_id: str | None = None
    secret_hash: str | None = field(default=None, repr=False, compare=False)

    def has(self, *scopes: Scope) -> bool:
        """Whether all of these scopes are the principal's."""
        return Scope.ADMIN in self.scopes or self.scopes.issuperset(scopes)

    @property
    def row_owner(self) -> str | None:
        """`owner` as rows keep it: None while access is off."""
        return None if self.kind == "anonymous" else self.owner

    @property
    def admin(self) -> bool:
        return Scope.ADMIN in self.scopes


# Whoever calls while access is off, and the service itself.
ANONYMOUS = Principal("anonymous", "anonymous", "anonymous", ALL_SCOPES, ALL_CAMERAS)


ENTRY_NAMES = UUID("5f0e5d0c-6a4f-4e0e-9d1c-0b6f1f6a1f0e")  # of audit rows; any constant


@dataclass(frozen=True, slots=True)
class Actor:
    """Whom an audit row names, for the writes of one request. `status`: how the request answers when it succeeds."""

    request: UUID  # the same for every run of one request's transactions
    subject: str
    kind: Kind
    address: str | None
    trace_id: str
    status: int
    action: str
    keep: float  # seconds that the row is protected (AUDIT__RETENTION)

    def entry(self, action: str, target: str | None) -> UUID:
        """The row's identity: one per request, action and target."""
        return uuid5(ENTRY_NAMES, f"{self.request}|{action}|{target}")


# Set for the time of a request, while access is on; transactions read it. A task that a request starts inherits it.
ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)


def audit_entry(action: str, target: str) -> dict[str, str | int | float | None] | None:
    """What a statement that writes its own audit row is given, as JSON takes it; None while access is off."""
    actor = ACTOR.get()
    if actor is None:
        return None
    return {
        "entry": str(actor.entry(action, target)), "action": action, "subject": actor.subject, "kind": actor.kind,
        "address": actor.address, "status": actor.status, "trace_id": actor.trace_id, "keep": actor.keep,
    }  # fmt: skip


def effective(scopes: Iterable[Scope], cameras: CameraGrant) -> tuple[frozenset[Scope], CameraGrant]:
    """The scopes and cameras that hold: `admin` is for all cameras; named cameras take what cannot be narrowed away."""
    found = frozenset(scopes)
    if cameras.patterns:
        found -= UNBOUND_SCOPES
    return found, ALL_CAMERAS if Scope.ADMIN in found else cameras


def known_scopes(names: Sequence[str]) -> list[Scope]:
    """Those of the names that are scopes, in the order of the enumeration."""
    return [scope for scope in Scope if scope.value in names]
