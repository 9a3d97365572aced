"""Answers as their caller may see them: without URLs that other scopes give, and without other cameras' replays.

Every JSON answer of a route passes here, a kept answer of an Idempotency-Key too: what an endpoint forgets is still not
told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from starlette.responses import Response

from models.access import Principal, Scope

_FRAME, _SOURCE = {"storage_url", "url_expires_at"}, {"url", "codec"}


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)


def _blank(value: Any, names: set[str], cleared: tuple[str, ...]) -> None:
    for found in _objects(value):
        if found.keys() >= names:
            found.update(dict.fromkeys(cleared))


def _changes(who: Principal) -> list[Callable[[Any], None]]:
    changes: list[Callable[[Any], None]] = []
    if not who.has(Scope.FRAMES_READ):
        changes.append(lambda body: _blank(body, _FRAME, ("storage_url", "url_expires_at")))
    if not who.has(Scope.CAMERAS_READ):
        changes.append(lambda body: _blank(body, _SOURCE, ("url",)))
    return changes


def shown(response: Response, who: Principal) -> Response:
    """The response, its presigned URLs null without frames:read, its source's URL null without cameras:read."""
    changes = _changes(who)
    if not changes:
        return response
    kind = response.headers.get("content-type", "").partition(";")[0]
    body = getattr(response, "body", b"")
    if not body or kind not in ("application/json", "application/problem+json"):
        return response
    content = json.loads(bytes(body))
    for change in changes:
        change(content)
    response.body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    response.headers["Content-Length"] = str(len(response.body))
    return response


def camera_ids(body: Any) -> set[str]:
    """Every camera that a body names."""
    return {found["camera_id"] for found in _objects(body) if isinstance(found.get("camera_id"), str)}
