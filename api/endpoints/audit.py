"""/api/v1/audit: who did what, for administrators."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query

from api.http import examples
from api.http.access.check import WhoDep
from api.http.access.rules import needs
from api.http.dependencies import ServicesDep
from api.http.openapi import answer, problems
from api.http.params import Cursor, Limit
from api.http.routing import make_router
from models.access import Scope
from models.schemas import AuditPage, Timestamp
from models.values import AuditFilter
from services.reads.serializers.access import to_audit_entry

router = make_router("/api/v1/audit", tags=["access"])


async def _filter(
    from_: Annotated[Timestamp | None, Query(alias="from", description="Inclusive.")] = None,
    to: Annotated[Timestamp | None, Query(description="Exclusive.")] = None,
    subject: Annotated[str | None, Query(max_length=255)] = None,
    action: Annotated[str | None, Query(max_length=100, examples=["frame.delete", "credential.refused"])] = None,
) -> AuditFilter:
    return AuditFilter(subject=subject, action=action, from_=from_, to=to)


@router.get(
    "",
    operation_id="list_audit",
    summary="The audit, newest first",
    response_model=AuditPage,
    responses={200: answer("A page.", examples.AUDIT_PAGE), **problems()},
)
@needs(Scope.ADMIN)
async def list_audit(
    services: ServicesDep,
    who: WhoDep,
    matching: Annotated[AuditFilter, Depends(_filter)],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    """Every write, and refused credentials as one row an address, code and minute. Rows are kept AUDIT__RETENTION."""
    rows, following = await services.audit_log.page(who, matching, limit, cursor)
    return AuditPage(items=[to_audit_entry(row) for row in rows], next_cursor=following)
