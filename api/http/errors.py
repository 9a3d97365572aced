"""The table from codes to HTTP statuses, and everything that makes an application/problem+json answer (RFC 9457)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from api.http.validation import invalid
from utils.exceptions import IngestionException, SecretUnreadable
from utils.logger import get_logger

log = get_logger(__name__)

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER = 1.0  # seconds, when the exception names none

TABLE: dict[str, tuple[int, str]] = {
    "malformed_request": (400, "Malformed request"),
    "unauthorized": (401, "Not authenticated"),
    "forbidden": (403, "Not allowed"),
    "csrf_failed": (403, "CSRF token missing or wrong"),
    "address_not_allowed": (403, "Camera address not allowed"),
    "request_not_found": (404, "No such request"),
    "frame_not_found": (404, "No such frame"),
    "camera_not_found": (404, "No such camera"),
    "pair_not_found": (404, "No such pair"),
    "key_not_found": (404, "No such API key"),
    "worker_not_found": (404, "No such process"),
    "session_not_found": (404, "No such upload session"),
    "route_not_found": (404, "No such route"),
    "method_not_allowed": (405, "Method not allowed"),
    "request_timeout": (408, "Request timed out"),
    "not_running": (409, "Not running"),
    "camera_in_use": (409, "Camera in use"),
    "camera_exists": (409, "Camera exists"),
    "camera_disabled": (409, "Camera disabled"),
    "frame_on_hold": (409, "Frame on hold"),
    "frame_in_pair": (409, "Frame in a pair"),
    "pair_not_aligned": (409, "Pair not aligned"),
    "request_in_progress": (409, "Same request in progress"),
    "upload_incomplete": (409, "Upload incomplete"),
    "session_closed": (410, "Upload session closed"),
    "cursor_expired": (410, "Cursor expired"),
    "payload_too_large": (413, "Body too large"),
    "too_many_files": (413, "Too many files"),
    "image_too_large": (413, "Picture too large"),
    "unsupported_media_type": (415, "Unsupported media type"),
    "unsupported_image_format": (415, "Unsupported image format"),
    "range_not_satisfiable": (416, "Range not satisfiable"),
    "invalid_request": (422, "Invalid request"),
    "no_frame": (422, "No frame there"),
    "same_frame": (422, "Same frame twice"),
    "not_applicable": (422, "Field not applicable"),
    "invalid_image": (422, "Invalid image"),
    "image_type_mismatch": (422, "Image type mismatch"),
    "checksum_mismatch": (422, "Checksum mismatch"),
    "timestamp_out_of_range": (422, "Timestamp out of range"),
    "idempotency_key_reused": (422, "Idempotency key reused"),
    "upgrade_required": (426, "Upgrade required"),
    "rate_limited": (429, "Rate limited"),
    "too_many_pending": (429, "Too many captures waiting"),
    "internal_error": (500, "Internal error"),
    "not_implemented": (501, "Not built yet"),
    # A camera's failure in a snapshot or a burst; address_not_allowed and timestamp_out_of_range stand above.
    "unauthorized_camera": (502, "Camera refused the credentials"),
    "forbidden_camera": (502, "Camera forbids the stream"),
    "stream_not_found": (502, "Camera has no such stream"),
    "camera_busy": (502, "Camera busy"),
    "connection_refused": (502, "Camera refused the connection"),
    "dns_failure": (502, "Camera's name not resolved"),
    "tls_error": (502, "TLS with the camera failed"),
    "no_video": (502, "Camera sends no video"),
    "unsupported_codec": (502, "Video codec not supported"),
    "transport_refused": (502, "Camera refuses the transport"),
    "poisoned": (502, "Capture ends its processes"),
    "redirect_refused": (502, "Camera redirects"),
    "stream_ended": (502, "Camera ended the stream"),
    "decode_failed": (502, "Picture could not be decoded"),
    "lease_lost": (502, "Capture lost its owner"),
    "not_onvif": (502, "Not an ONVIF device"),
    "connect_timeout": (504, "Camera could not be connected to in time"),
    "read_timeout": (504, "Camera sent nothing in time"),
    "storage_unavailable": (503, "Object store unavailable"),
    "database_unavailable": (503, "Database unavailable"),
    "shutting_down": (503, "Shutting down"),
    "no_worker": (503, "No process captures there"),
    "overloaded": (503, "Overloaded"),
    "disk_full": (507, "Disk full"),
}
_HTTP_CODES = {
    400: "malformed_request", 401: "unauthorized", 403: "forbidden", 404: "route_not_found", 405: "method_not_allowed",
    408: "request_timeout", 413: "payload_too_large", 415: "unsupported_media_type", 416: "range_not_satisfiable",
    422: "invalid_request", 429: "rate_limited", 501: "not_implemented", 503: "overloaded",
}  # fmt: skip
# Top-level members that exceptions may add, by the key of their `details`.
_EXTRA_MEMBERS = ("rejected", "oldest_cursor", "group_id", "at", "tolerance_ms", "results", "missing_parts")


def trace_id(scope: Scope) -> str:
    """The request's id as RequestContext chose it."""
    return str(scope.get("trackshift.request_id", ""))


def problem_response(scope: Scope, error: IngestionException, headers: Mapping[str, str] | None = None) -> Response:
    """The answer for an error that clients may see."""
    status, title = TABLE.get(error.code, TABLE["internal_error"])
    scope["trackshift.code"] = error.code
    fields = [
        {"in": item.location, "pointer": item.pointer, "name": item.name, "code": item.code, "message": item.message}
        for item in error.errors
    ]
    body: dict[str, Any] = {
        "type": "about:blank", "title": title, "status": status, "code": error.code, "detail": error.message,
        "instance": quote(scope.get("path", "")[:2048], safe="/:@!$&'()*+,;=~-._"), "trace_id": trace_id(scope),
        "retryable": error.retryable, "errors": fields,
    }  # fmt: skip
    body.update({name: error.details[name] for name in _EXTRA_MEMBERS if name in error.details})
    sent = {"Cache-Control": "no-store", **(headers or {})}
    if status in (429, 503):
        sent.setdefault("Retry-After", str(max(1, math.ceil(error.retry_after or RETRY_AFTER))))
    elif error.retry_after is not None:
        sent.setdefault("Retry-After", str(max(1, math.ceil(error.retry_after))))
    if status == 401 or "scope" in error.details:
        sent.setdefault("WWW-Authenticate", _challenge(error))
    if status == 408:  # the rest of the body may still come: the connection cannot be used again
        sent.setdefault("Connection", "close")
    return JSONResponse(body, status_code=status, headers=sent, media_type=PROBLEM_TYPE)


def _challenge(error: IngestionException) -> str:
    """RFC 6750, section 3."""
    if "scope" in error.details:
        return f'Bearer realm="trackshift", error="insufficient_scope", scope="{error.details["scope"]}"'
    return 'Bearer realm="trackshift"' + (', error="invalid_token"' if error.details.get("given") else "")


def internal_error(scope: Scope, error: BaseException) -> Response:
    """500 for an unexpected error: the traceback goes to the log, the client gets a trace_id."""
    log.error("unhandled_error", error=type(error).__name__, exc_info=error)
    return problem_response(scope, error if isinstance(error, SecretUnreadable) else IngestionException())


class _Coded(IngestionException):
    """An HTTPException of the framework under the contract's code."""

    def __init__(self, code: str, message: str | None = None) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # the class's, narrowed for this one


def allowed_methods(scope: Scope, routes: list[BaseRoute]) -> str:
    """The methods of all routes of the path; Starlette names those of the first route only."""
    found = set()
    for method in ("DELETE", "GET", "PATCH", "POST", "PUT"):
        probe = {**scope, "method": method}
        if any(route.matches(probe)[0] is Match.FULL for route in routes):
            found.add(method)
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted(found))


_DETAILS = {
    "route_not_found": "There is no such path.",
    "method_not_allowed": "This path does not take this method; Allow names those it takes.",
}


async def on_ingestion_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, IngestionException)
    if error.code == "internal_error":
        return internal_error(request.scope, error)
    return problem_response(request.scope, error)


async def on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(request.scope, invalid(list(error.errors())))


async def on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    code = _HTTP_CODES.get(error.status_code, "malformed_request" if error.status_code < 500 else "internal_error")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = allowed_methods(request.scope, request.app.routes)
    # error.detail is the framework's text and may repeat input.
    return problem_response(request.scope, _Coded(code, _DETAILS.get(code, TABLE[code][1] + ".")), headers)


def install_error_handlers(app: FastAPI) -> None:
    """Registers the handlers. Any other exception becomes a 500 in middleware.UnexpectedErrors.

    So does a pydantic ValidationError of a row or an answer that does not fit its model: invalid input is a
    RequestValidationError, or InvalidRequest for a form.
    """
    app.add_exception_handler(IngestionException, on_ingestion_exception)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_exception)
