"""What /openapi.json has beyond the endpoints' signatures: errors, examples, links; and the pages that show it."""

from __future__ import annotations

import mimetypes
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from api.http.access.rules import SCHEMES, needs, public
from api.http.errors import PROBLEM_TYPE, TABLE
from api.http.links import add_links
from api.http.routing import declared_routes, make_router
from models.schemas import Problem
from utils.exceptions import IngestionException

_REF = "#/components/schemas/{model}"
# Any endpoint under /api may answer these.
COMMON = ("malformed_request", "invalid_request", "internal_error", "database_unavailable", "overloaded", "shutting_down")
_FIELD_EXAMPLES: dict[str, list[dict[str, str]]] = {
    "invalid_request": [{"in": "body", "pointer": "/fps", "name": "fps", "code": "less_than_equal",
                         "message": "must be at most 30"}],
    "not_applicable": [{"in": "body", "pointer": "/motion", "name": "motion", "code": "not_applicable",
                        "message": "motion does not apply to capture_mode single_frame"}],
}  # fmt: skip
_REJECTED = ("unsupported_image_format", "invalid_image", "image_type_mismatch", "image_too_large", "storage_unavailable")
# Served from this package's files when it is installed: at a race track there may be no internet.
ASSETS_PACKAGE = "fastapi_offline"
_ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js", "favicon.png")
_ASSET_URL = "/docs/assets/"


def _subclasses(kind: type[IngestionException]) -> list[type[IngestionException]]:
    return [kind, *(below for sub in kind.__subclasses__() for below in _subclasses(sub))]


@cache
def _errors_by_code() -> dict[str, type[IngestionException]]:
    """The first of each code, as every problem's example asks for it."""
    return {kind.code: kind for kind in reversed(_subclasses(IngestionException))}


def _example(code: str, status: int, title: str) -> dict[str, Any]:
    known = _errors_by_code().get(code)
    body: dict[str, Any] = {
        "type": "about:blank", "title": title, "status": status, "code": code,
        "detail": known.default_message if known else f"{title}.", "instance": "/api/v1/…",
        "trace_id": "01934f5e-2b7a-7c31-9d5e-6f0a1b2c3d4e", "retryable": known.retryable if known else False,
        "errors": _FIELD_EXAMPLES.get(code, []),
    }  # fmt: skip
    return {"summary": title, "value": body}


def problems(*codes: str, common: bool = True) -> dict[int | str, dict[str, Any]]:
    """`responses=` for an endpoint: each code an example under its status; COMMON ones added."""
    found: dict[int | str, dict[str, Any]] = {}
    for code in dict.fromkeys([*codes, *(COMMON if common else ())]):
        status, title = TABLE[code]
        if status not in found:
            content = {PROBLEM_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}, "examples": {}}}
            found[status] = {"description": title, "content": content}
            if status in (429, 503):
                found[status]["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
        else:
            found[status]["description"] += f"; {title.lower()}"
        found[status]["content"][PROBLEM_TYPE]["examples"][code] = _example(code, status, title)
    return dict(sorted(found.items(), key=lambda item: str(item[0])))


def answer(description: str, example: Any, *, location: bool = False) -> dict[str, Any]:
    """`responses=` entry of a success: its example and headers."""
    entry: dict[str, Any] = {"description": description, "content": {"application/json": {"example": example}}}
    if location:
        entry["headers"] = {"Location": {"description": "The request's status.", "schema": {"type": "string"}}}
    return entry


def header(name: str, description: str, example: str, pattern: str | None = None) -> dict[str, Any]:
    """One header parameter for `openapi_extra`."""
    schema = {"type": "string"} | ({"pattern": pattern} if pattern else {})
    return {
        "name": name, "in": "header", "required": False, "description": description, "schema": schema, "example": example,
    }  # fmt: skip


PREFER = header("Prefer", "RFC 7240. `wait=N`: wait up to N seconds (at most 60) for the final state.", "wait=10")
IDEMPOTENCY = header(
    "Idempotency-Key",
    'One key, `"k"` or bare `k`, 1-255 visible ASCII characters. The same key and body within 24 h: the first answer again, '
    "with `Idempotent-Replayed: true`.",
    "2f6c1c9e",
    r'^("[!#-\[\]-~]{1,253}"|[!#-+\--~]{1,255})$',
)
KEYED = ("request_in_progress", "idempotency_key_reused")  # the errors of routes with IDEMPOTENCY


def schema_of(app: FastAPI) -> dict[str, Any]:
    """The document; made once, kept on the application."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        # "validation": members that only some codes have are not required.
        _, extra = models_json_schema([(Problem, "validation")], ref_template=_REF)
        components = schema.setdefault("components", {})
        components["schemas"] = extra["$defs"] | components.get("schemas", {})
        add_links(schema)
        _add_security(app, schema)
        app.openapi_schema = schema
    return app.openapi_schema


def _add_security(app: FastAPI, schema: dict[str, Any]) -> None:
    """Each operation's `security`, from what its endpoint declares, and 401 and 403 where it is not public."""
    schema["components"]["securitySchemes"] = SCHEMES
    refusals = problems("unauthorized", "forbidden", "rate_limited", common=False)
    for route in declared_routes(app):
        if not route.include_in_schema:
            continue
        for method in route.methods or ():
            operation = schema["paths"][route.path_format][method.lower()]
            operation["security"] = route.rule.openapi()
            if not route.rule.public:
                for status, entry in refusals.items():
                    operation["responses"].setdefault(str(status), entry)


@cache
def _local_assets() -> dict[str, bytes]:
    try:
        folder = files(ASSETS_PACKAGE) / "static"
        return {name: (folder / name).read_bytes() for name in _ASSETS}
    except (ModuleNotFoundError, OSError):
        return {}


def install_docs(app: FastAPI) -> None:
    """/openapi.json, /docs, /redoc; their scripts from the installed package, else from the CDN that FastAPI names."""
    router = make_router(include_in_schema=False)
    declare = public if app.state.trackshift.settings.AUTH.DOCS else needs()
    local = _local_assets()

    def urls(**names: str) -> dict[str, Any]:
        return {key: _ASSET_URL + name for key, name in names.items()} if local else {}

    @router.get("/openapi.json")
    @declare
    async def openapi() -> Response:
        return JSONResponse(await run_in_threadpool(schema_of, app))

    @router.get("/docs")
    @declare
    async def swagger() -> HTMLResponse:
        links = urls(
            swagger_js_url="swagger-ui-bundle.js", swagger_css_url="swagger-ui.css", swagger_favicon_url="favicon.png"
        )
        return get_swagger_ui_html(openapi_url="/openapi.json", title=f"{app.title}: try it", **links)

    @router.get("/redoc")
    @declare
    async def redoc() -> HTMLResponse:
        links = urls(redoc_js_url="redoc.standalone.js", redoc_favicon_url="favicon.png")
        return get_redoc_html(openapi_url="/openapi.json", title=app.title, with_google_fonts=False, **links)

    @router.get(_ASSET_URL + "{name}")
    @declare
    async def asset(request: Request, name: str) -> Response:
        if name not in local:
            raise HTTPException(404)
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(local[name], media_type=kind, headers={"Cache-Control": "public, max-age=86400"})

    app.router.routes.extend(router.routes)
