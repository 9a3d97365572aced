"""/api/v1/api-keys: credentials of callers, for administrators."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from starlette.responses import Response

from api.http import examples
from api.http.access.check import WhoDep
from api.http.access.rules import needs
from api.http.dependencies import ServicesDep
from api.http.openapi import answer, problems
from api.http.params import KEY_ID_PATTERN, Cursor, Limit
from api.http.routing import make_router
from models.access import Scope
from models.schemas import ApiKeyCreate, ApiKeyCreated, ApiKeyInfo, ApiKeyPage
from services.reads.serializers.access import to_api_key, to_new_api_key

router = make_router("/api/v1/api-keys", tags=["access"])

KeyId = Annotated[str, Path(pattern=KEY_ID_PATTERN, description="The key's id: 12 characters.")]


def _location(key_id: str) -> str:
    return f"/api/v1/api-keys/{key_id}"


def _made(description: str) -> dict[str, Any]:
    return answer(description, examples.KEY_MADE) | {
        "headers": {"Location": {"description": "The key.", "schema": {"type": "string"}}}
    }


@router.post(
    "",
    status_code=201,
    operation_id="create_api_key",
    summary="Make an API key",
    response_model=ApiKeyCreated,
    responses={
        201: _made("`key` is shown this once."),
        **problems("payload_too_large", "unsupported_media_type", "request_timeout"),
    },
    openapi_extra={"requestBody": {"content": {"application/json": {"example": examples.KEY_NEW}}}},
)
@needs(Scope.ADMIN)
async def create_api_key(body: ApiKeyCreate, response: Response, services: ServicesDep, who: WhoDep) -> Any:
    """`cameras` null: all. `admin` and `metrics:read` are for all cameras: not together with `cameras`."""
    row, key = await services.api_keys.create(who, body.name, body.scopes, body.cameras, body.expires_at)
    response.headers["Location"] = _location(row.key_id)
    return to_new_api_key(row, key)


@router.get(
    "",
    operation_id="list_api_keys",
    summary="API keys, in the order of their creation",
    response_model=ApiKeyPage,
    responses={200: answer("A page; revoked keys too.", examples.KEY_PAGE), **problems()},
)
@needs(Scope.ADMIN)
async def list_api_keys(services: ServicesDep, who: WhoDep, limit: Limit = 50, cursor: Cursor = None) -> Any:
    rows, following = await services.api_keys.page(who, limit, cursor)
    return ApiKeyPage(items=[to_api_key(row) for row in rows], next_cursor=following)


@router.get(
    "/{key_id}",
    operation_id="get_api_key",
    summary="One API key",
    response_model=ApiKeyInfo,
    responses={200: answer("The key, without its secret.", examples.KEY), **problems("key_not_found")},
)
@needs(Scope.ADMIN)
async def get_api_key(key_id: KeyId, services: ServicesDep) -> Any:
    return to_api_key(await services.api_keys.get(key_id))


@router.delete(
    "/{key_id}",
    status_code=204,
    operation_id="revoke_api_key",
    summary="Revoke an API key",
    responses=problems("key_not_found"),
)
@needs(Scope.ADMIN)
async def revoke_api_key(key_id: KeyId, services: ServicesDep) -> Response:
    """For good: every process refuses it within 2 s, streams and waits included. Captures that run go on."""
    await services.api_keys.revoke(key_id)
    services.access.credentials.doubt()
    return Response(status_code=204)


@router.post(
    "/{key_id}/rotate",
    status_code=201,
    operation_id="rotate_api_key",
    summary="Give an API key another secret",
    response_model=ApiKeyCreated,
    responses={201: _made("The new secret, shown this once."), **problems("key_not_found")},
)
@needs(Scope.ADMIN)
async def rotate_api_key(key_id: KeyId, response: Response, services: ServicesDep) -> Any:
    """The same principal; the former secret stays good for 24 h."""
    row, key = await services.api_keys.rotate(key_id)
    services.access.credentials.doubt()
    response.headers["Location"] = _location(key_id)
    return to_new_api_key(row, key)
