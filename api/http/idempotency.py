"""`Idempotency-Key` on the wire: the routes that take it, its form, fingerprints of bodies, replayed answers.

StrictRoute sends every POST under /api/v1/ingest and /api/v1/pairs and the snapshot through `serve`.
The key is taken after the whole body was received. A JSON route does nothing else for it; a route that reads its body
itself calls `begin` with the fingerprint. A request that is refused earlier (by its headers, or because its body does not
parse) has changed nothing and uses no key.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.http.access.check import principal
from api.http.access.shown import camera_ids
from api.http.dependencies import get_services
from api.http.errors import PROBLEM_TYPE, on_http_exception, on_ingestion_exception, on_validation_error
from api.http.receive import ReceivedForm
from models.values import KeptAnswer, KeyName
from services.idempotency.operation import Operation
from utils.exceptions import Forbidden, IngestionException, MalformedRequest

REPLAYED = "Idempotent-Replayed"
# These answers depend on the moment, not on the request: they free the key.
_NOT_KEPT = (401, 403, 408, 409, 429)
_IN_THREAD = 65_536  # bytes of JSON; less is hashed faster than a thread is reached
# A structured-field string ("k") or the bare key; visible ASCII. A bare comma would be two keys in one header.
_QUOTED_KEY = re.compile(r'^"((?:[\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"$')
_BARE_KEY = re.compile(r"^[\x21\x23-\x2b\x2d-\x7e]{1,255}$")
_SCOPE = "trackshift.keyed"


class _Replay(Exception):
    """The key has an answer already: the endpoint does not run."""

    def __init__(self, answer: KeptAnswer) -> None:
        self.answer = answer


class _Keyed:
    """A request's key and its operation."""

    def __init__(self, name: KeyName | None) -> None:
        self.name = name
        self.operation: Operation | None = None if name is not None else Operation()


def takes_key(methods: set[str], path: str) -> bool:
    """Whether a route takes the header; on others it is ignored."""
    return "POST" in methods and (path.startswith(("/api/v1/ingest/", "/api/v1/pairs")) or path.endswith("/snapshot"))


def parse_key(headers: list[str]) -> str | None:
    """The key, `"k"` and `k` being the same one; None without the header. Raises MalformedRequest."""
    if not headers:
        return None
    value = headers[0].strip()
    if len(headers) == 1 and (quoted := _QUOTED_KEY.match(value)):
        return re.sub(r"\\(.)", r"\1", quoted[1])
    if len(headers) == 1 and _BARE_KEY.match(value):
        return value
    raise MalformedRequest("Idempotency-Key: one key of 1-255 visible ASCII characters.")


def caller(request: Request) -> str:
    """The owner of the keys."""
    return principal(request).owner


def scope_of(request: Request) -> str:
    """Caller, method and path, as one hash: a path may be of any length and hold any character."""
    parts = [caller(request), request.method, request.url.path]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _hash(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def json_fingerprint(value: Any, query: bytes) -> str:
    """Over the parsed JSON and the query: spaces and the order of names do not count, headers do not either."""
    return _hash(value, sorted(parse_qsl(query.decode("ascii"), keep_blank_values=True)))


def form_fingerprint(form: ReceivedForm) -> str:
    """Over an upload's fields and, in their order, its files' names, declared types, sizes and hashes.

    Not over the multipart text: its boundary differs at every try. A file that is too large was not received whole: it
    counts by name and type.
    """
    files = [
        [file.filename, file.declared_type, None if file.too_large else [file.size, file.sha256]] for file in form.files
    ]
    return _hash(form.fields.model_dump(mode="json"), files)


async def begin(request: Request, fingerprint: str) -> Operation:
    """Takes the request's key: for a route that reads its body itself, once that is here whole.

    Raises IdempotencyKeyReused, RequestInProgress, DatabaseUnavailable; and an exception by which `serve` replays the
    key's answer.
    """
    keyed: _Keyed = request.scope[_SCOPE]
    if keyed.operation is None:
        assert keyed.name is not None
        found = await (await get_services(request)).idempotency.begin(keyed.name, fingerprint)
        if isinstance(found, KeptAnswer):
            raise _Replay(found)
        keyed.operation = found
    return keyed.operation


async def get_operation(request: Request) -> Operation:
    keyed: _Keyed = request.scope[_SCOPE]
    assert keyed.operation is not None, "a route that reads its body itself calls begin()"
    return keyed.operation


async def kept_answer(request: Request, operation: Operation) -> Response | None:
    """The answer that was kept in the transaction of its rows, as a response; None without a key."""
    answer = await (await get_services(request)).idempotency.given(operation) if operation.keyed else None
    return _response(answer) if answer is not None else None


OperationDep = Annotated[Operation, Depends(get_operation)]


def check_key(request: Request) -> None:
    """The request's key, if it has one, before its body is read. Raises MalformedRequest."""
    key = parse_key(request.headers.getlist("idempotency-key"))
    request.scope[_SCOPE] = _Keyed(KeyName(scope_of(request), key, caller(request)) if key is not None else None)


async def serve(
    request: Request, handler: Callable[[Request], Awaitable[Response]], body: tuple[bytes, Any] | None
) -> Response:
    """Runs the endpoint, or replays the key's answer. `body`: raw and parsed; None when the endpoint reads it itself."""
    keyed: _Keyed = request.scope[_SCOPE]
    if keyed.name is None:
        return await handler(request)
    try:
        if body is not None:
            query = request.scope.get("query_string", b"")
            work = (body[1], query)
            large = len(body[0]) > _IN_THREAD
            await begin(request, await asyncio.to_thread(json_fingerprint, *work) if large else json_fingerprint(*work))
        response = await handler(request)
    except _Replay as found:
        if not principal(request).cameras.covers_all(camera_ids(found.answer.body)):  # narrowed since
            return await on_ingestion_exception(request, Forbidden("The credential is not for this camera."))
        return _again(found.answer)
    except IngestionException as error:
        response = await on_ingestion_exception(request, error)
    except RequestValidationError as error:
        response = await on_validation_error(request, error)
    except HTTPException as error:
        response = await on_http_exception(request, error)
    except BaseException:
        if keyed.operation is not None:
            await asyncio.shield((await get_services(request)).idempotency.release(keyed.operation))
        raise
    return await _end(request, keyed.operation, response)


async def _end(request: Request, operation: Operation | None, response: Response) -> Response:
    """Keeps the answer or frees the key, before the answer is sent."""
    if operation is None:  # refused before the body was here whole
        assert response.status_code >= 400, "a route that reads its body itself calls begin()"
        return response
    keys = (await get_services(request)).idempotency
    if response.status_code >= 500 or response.status_code in _NOT_KEPT:
        await asyncio.shield(keys.release(operation))
        return response
    if operation.others is not None:  # another run of this key was first
        await asyncio.shield(keys.release(operation))
        return _again(await keys.fresh(operation.others))
    body = json.loads(bytes(response.body)) if response.body and not operation.given else None
    await asyncio.shield(keys.finish(operation, response.status_code, response.headers.get("location"), body))
    return response


def _again(answer: KeptAnswer) -> Response:
    response = _response(answer)
    response.headers[REPLAYED] = "true"
    return response


def _response(answer: KeptAnswer) -> Response:
    headers = {"Location": answer.location} if answer.location is not None else {}
    if answer.status >= 400:
        return JSONResponse(answer.body, answer.status, {**headers, "Cache-Control": "no-store"}, PROBLEM_TYPE)
    return JSONResponse(answer.body, answer.status, headers)
