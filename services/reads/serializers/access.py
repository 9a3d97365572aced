"""Keys, the caller and audit rows as the wire shows them. Pure."""

from __future__ import annotations

from typing import Any, cast

from models.access import Kind, Principal, known_scopes
from models.entities import ApiKey, Audit
from models.schemas import ApiKeyCreated, ApiKeyInfo, AuditEntry, Me


def _fields(row: ApiKey) -> dict[str, Any]:
    return {
        "key_id": row.key_id, "name": row.name, "scopes": known_scopes(row.scopes), "cameras": row.cameras,
        "created_at": row.created_at, "expires_at": row.expires_at, "last_used_at": row.last_used_at,
        "revoked_at": row.revoked_at,
    }  # fmt: skip


def to_api_key(row: ApiKey) -> ApiKeyInfo:
    """The key without anything secret."""
    return ApiKeyInfo(**_fields(row))


def to_new_api_key(row: ApiKey, key: str) -> ApiKeyCreated:
    """The key with its whole text, which is shown once."""
    return ApiKeyCreated(**_fields(row), key=key)


def to_me(who: Principal, csrf_token: str | None) -> Me:
    return Me(
        subject=who.subject, kind=who.kind, scopes=known_scopes([scope.value for scope in who.scopes]),
        cameras=list(who.cameras.patterns) if who.cameras.patterns is not None else None, expires_at=who.expires_at,
        csrf_token=csrf_token,
    )  # fmt: skip


def to_audit_entry(row: Audit) -> AuditEntry:
    return AuditEntry(
        at=row.at, subject=row.subject, kind=cast(Kind | None, row.kind), address=row.address, action=row.action,
        target=row.target, status=row.status, trace_id=row.trace_id,
    )  # fmt: skip
