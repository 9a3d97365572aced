"""Keys, browser sessions, the caller itself and the audit as the wire shows them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from models.access import Kind, Scope
from models.schemas.base import Input, Output, Timestamp


class ApiKeyCreate(Input):
    """POST /api/v1/api-keys."""

    name: str = Field(min_length=1, max_length=200)
    scopes: list[Annotated[Scope, Field(strict=False)]] = Field(
        min_length=1, max_length=len(Scope), json_schema_extra={"uniqueItems": True}
    )
    cameras: list[str] | None = Field(
        None, max_length=1000, description="Camera ids, or prefixes followed by `*`; null: all cameras."
    )
    expires_at: Timestamp | None = None


class ApiKeyInfo(Output):
    key_id: str = Field(description="The 12 characters between `tsk_` and the second `_`.")
    name: str
    scopes: list[Scope]
    cameras: list[str] | None
    created_at: Timestamp
    expires_at: Timestamp | None
    last_used_at: Timestamp | None = Field(description="To the minute.")
    revoked_at: Timestamp | None


class ApiKeyCreated(ApiKeyInfo):
    key: str = Field(description="The whole key. It is shown this once.")


class ApiKeyPage(Output):
    items: list[ApiKeyInfo]
    next_cursor: str | None


class Me(Output):
    """Who calls."""

    subject: str
    kind: Kind
    scopes: list[Scope]
    cameras: list[str] | None = Field(description="null: all cameras.")
    expires_at: Timestamp | None
    csrf_token: str | None = Field(description="For X-CSRF-Token, with a browser session.")


class SessionCreate(Input):
    """POST /api/v1/session."""

    credential: str = Field(min_length=1, max_length=8192, description="A key, the bootstrap secret or a JWT.")


class BrowserSessionState(Output):
    """GET /api/v1/session."""

    login: bool = Field(description="Whether credentials are asked for (AUTH__MODE).")
    caller: Me | None = Field(description="Whose session the cookie is; anonymous with access off; null: nobody's.")


class AuditEntry(Output):
    at: Timestamp
    subject: str | None
    kind: Kind | None
    address: str | None
    action: str
    target: str | None
    status: int | None
    trace_id: str | None


class AuditPage(Output):
    items: list[AuditEntry]
    next_cursor: str | None


class ProtectedResource(Output):
    """RFC 9728."""

    resource: str
    authorization_servers: list[str]
    scopes_supported: list[str]
    bearer_methods_supported: list[Literal["header"]]
    resource_name: str
