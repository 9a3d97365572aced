"""`/` and `/console/*`: the console's files, as they lie in `static`. What the page does it does by the API, as anybody may.

Any address below /console that is no file is the page itself, which finds its view by the address. Files are read once and
kept in memory, compressed too: 400 KB in all. Everything is open: who may see what is the API's to judge.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from api.http.access.rules import public
from api.http.params import DECIMAL
from api.http.ranges import none_match
from api.http.routing import StrictRoute, make_router
from api.http.state import AppState, app_state

STATIC = "static/"
PAGE = "index.html"
WORTH_COMPRESSING = 1000  # bytes


@dataclass(frozen=True, slots=True)
class File:
    """`packed`: gzip's, or None where that would not pay."""

    data: bytes
    packed: bytes | None
    etag: str
    kind: str


def _read(folder: Traversable, prefix: str = "") -> dict[str, File]:
    found: dict[str, File] = {}
    for item in folder.iterdir():
        name = prefix + item.name
        if item.is_dir():
            found |= _read(item, f"{name}/")
            continue
        data = item.read_bytes()
        kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0] or "text/plain"
        text = kind.startswith("text/") or kind.endswith("+xml")
        packed = gzip.compress(data, 9, mtime=0) if text and len(data) > WORTH_COMPRESSING else None
        etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        found[name] = File(data, packed, etag, f"{kind}; charset=utf-8" if text else kind)
    return found


@cache
def console_files() -> dict[str, File]:
    """By path below `static`. In a thread: it reads and compresses at its first call."""
    return _read(files("api.console") / "static")


def policy(state: AppState) -> str:
    """The page's Content-Security-Policy: nothing but its own files, its API, and the store that presigned URLs name."""
    store = ""
    if state.services is not None:
        parts = urlsplit(state.services.store_url)
        store = f" {parts.scheme}://{parts.netloc}"
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'{store} blob: data:; "
        f"connect-src 'self'{store}; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    )


class PageRoute(StrictRoute):
    """A page's address has the view's own parameters."""

    checks_query = False


router = make_router(include_in_schema=False, route_class=PageRoute)


def takes_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding takes gzip (RFC 9110, 12.5.3): by its name, else by `*`. A weight that is no number: 0."""
    weights: dict[str, float] = {}
    for item in accepted.split(","):
        coding, *params = (part.strip().lower() for part in item.split(";"))
        given = next((param[2:] for param in params if param.startswith("q=")), "1")
        weights[coding] = float(given) if DECIMAL.match(given) else 0.0
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def _answer(request: Request, file: File, headers: dict[str, str]) -> Response:
    packed = file.packed if takes_gzip(request.headers.get("accept-encoding", "")) else None
    etag = f'{file.etag[:-1]}-gzip"' if packed is not None else file.etag
    headers |= {"ETag": etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding", "X-Content-Type-Options": "nosniff"}
    if none_match(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    if packed is not None:
        headers["Content-Encoding"] = "gzip"
    return Response(packed if packed is not None else file.data, headers=headers, media_type=file.kind)


@router.get("/console/{path:path}")
@public
async def console(request: Request, path: str) -> Response:
    found = await run_in_threadpool(console_files)
    if path.startswith(STATIC):
        file = found.get(path.removeprefix(STATIC))
        if file is None:
            raise HTTPException(404)
        return _answer(request, file, {})
    headers = {
        "Content-Security-Policy": policy(app_state(request)), "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    }  # fmt: skip
    return _answer(request, found[PAGE], headers)


@router.get("/console")
@public
async def console_root() -> Response:
    return RedirectResponse("/console/", 308)


@router.get("/")
@public
async def root() -> Response:
    return RedirectResponse("/console/", 307)
