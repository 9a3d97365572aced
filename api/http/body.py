"""Reading request bodies: bounded in size, in silence and, for JSON, in form."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request

from api.http.admission import Held
from api.http.pace import BodyProgress, Pace, request_pace
from api.http.strict_json import loads
from config import ApiSettings
from utils.exceptions import MalformedRequest, PayloadTooLarge, RequestTimeout, UnsupportedMediaType

_PARSE_IN_THREAD = 16_384  # bytes; smaller ones hold the event loop for two milliseconds at most


def content_length(request: Request) -> int | None:
    """The declared length; None when absent. uvicorn's parser has refused ones that are not numbers."""
    value = request.headers.get("content-length")
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 19):
        raise MalformedRequest("Content-Length is not a number.")
    return int(value)


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_encoding(request: Request) -> None:
    """Compressed bodies are not taken: 415."""
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("Content-Encoding is not supported: send the body as it is.")


async def chunks(
    request: Request, pace: Pace, limit: int, held: Held, *, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[bytes]:
    """The body as it arrives, its bytes counted in `held`. Raises RequestTimeout when it falls behind its `pace`,
    PayloadTooLarge past `limit` bytes, ClientDisconnect when the client goes away, and what `held` raises.

    What this side does between two pieces takes none of the client's time.
    """
    seen, more, progress = 0, True, BodyProgress(pace)
    while more:
        if progress.seconds_left <= 0:
            raise RequestTimeout
        began = clock()
        try:
            async with asyncio.timeout(progress.seconds_left):
                message = await request.receive()
        except TimeoutError:
            raise RequestTimeout from None
        progress.waited(clock() - began)
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        data: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        seen += len(data)
        if seen > limit:
            raise PayloadTooLarge
        progress.moved(len(data))
        held.cover(seen)
        if data:
            yield data


def _check_json_type(request: Request) -> None:
    value = request.headers.get("content-type")
    kind = media_type(request)
    charset = "utf-8"
    for parameter in (value or "").split(";")[1:]:
        name, _, text = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = text.strip().strip('"').lower()
    is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    if not is_json or charset not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType("Send the body as application/json in UTF-8.")


async def read_json(request: Request, api: ApiSettings, limit: int, held: Held) -> tuple[bytes, Any]:
    """The raw body and its value; (b"", None) when there is none. `limit`: bytes."""
    check_encoding(request)
    declared = content_length(request)
    if "content-type" in request.headers and declared != 0:
        _check_json_type(request)
    if declared is not None and declared > limit:
        raise PayloadTooLarge(f"The body is larger than {limit} bytes.")
    pace = request_pace(api, limit if declared is None else declared)
    parts = [data async for data in chunks(request, pace, limit, held)]
    raw = b"".join(parts)
    if not raw:
        return b"", None
    _check_json_type(request)
    value = loads(raw) if len(raw) <= _PARSE_IN_THREAD else await asyncio.to_thread(loads, raw)
    return raw, value
