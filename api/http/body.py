"""Reading request bodies: bounded in size, in silence and, for JSON, in form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from api.http.strict_json import loads
from config import ApiSettings
from utils.exceptions import MalformedRequest, PayloadTooLarge, RequestTimeout, UnsupportedMediaType

_PARSE_IN_THREAD = 65_536  # bytes; smaller ones parse faster than a thread is reached


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


@dataclass(frozen=True, slots=True)
class BodyDeadline:
    """How slowly a body may arrive.

    No pause may be longer than `silence` seconds. After the first `silence` seconds of waiting, the average rate must be
    at least `rate` bytes a second (0: any); only the time spent waiting for the client counts.
    """

    silence: float
    rate: int

    def seconds_left(self, seen: int, waited: float) -> float:
        """Seconds to wait for the next bytes, after `seen` bytes in `waited` seconds."""
        if not self.rate:
            return self.silence
        return min(self.silence, self.silence + seen / self.rate - waited)


def body_deadline(settings: ApiSettings) -> BodyDeadline:
    """The deadline that API__BODY_TIMEOUT and API__MIN_BODY_RATE set."""
    return BodyDeadline(settings.BODY_TIMEOUT, settings.MIN_BODY_RATE)


async def chunks(request: Request, deadline: BodyDeadline, limit: int) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises RequestTimeout when it misses the `deadline`, PayloadTooLarge past
    `limit` bytes, ClientDisconnect when the client goes away."""
    clock = asyncio.get_running_loop().time
    seen, waited, more = 0, 0.0, True
    while more:
        began = clock()
        try:
            # Zero or less still takes what is there already: what our own disk delayed is not the client's fault.
            async with asyncio.timeout(max(0.001, deadline.seconds_left(seen, waited))):
                message = await request.receive()
        except TimeoutError:
            raise RequestTimeout from None
        waited += clock() - began
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        data: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        seen += len(data)
        if seen > limit:
            raise PayloadTooLarge
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


async def read_json(request: Request, deadline: BodyDeadline, limit: int) -> tuple[bytes, Any]:
    """The raw body and its value; (b"", None) when there is none."""
    check_encoding(request)
    declared = content_length(request)
    if "content-type" in request.headers and declared != 0:
        _check_json_type(request)
    if declared is not None and declared > limit:
        raise PayloadTooLarge("The body is larger than API__MAX_JSON_BYTES.")
    parts = [data async for data in chunks(request, deadline, limit)]
    raw = b"".join(parts)
    if not raw:
        return b"", None
    _check_json_type(request)
    value = loads(raw) if len(raw) <= _PARSE_IN_THREAD else await asyncio.to_thread(loads, raw)
    return raw, value
