"""Objects put from memory, and small ones read, on the event loop: no thread is woken for them. All else goes by boto3.

What arrives at the store is what boto3 sends (a test compares the two): content type, length, SHA-256 as the checksum and in
the signature. A store that does not return the checksum has not compared it, and gets the payload signed from then on.
Attempts and pauses are those of botocore's standard mode, failures its exceptions, so that nobody has to tell the two apart.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import re
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)
from botocore.httpsession import get_cert_path

from services.storage_service.client import session_ca_bundle
from services.storage_service.http_put import CannotConnect, ConnectionBroken, PutAnswer, PutConnections, Timeout
from services.storage_service.put_signer import UNSIGNED, PutSigner
from utils.logger import get_logger
from utils.metrics import POOL_BUSY, STORAGE_RETRIES

MOST = 8_388_608  # bytes of a body that goes this way
_LONGEST_PAUSE = 20.0  # seconds
_TRANSIENT = frozenset({429, 500, 502, 503, 504})
_AGAIN = frozenset({"RequestTimeout", "RequestTimeoutException", "PriorRequestNotComplete", "SlowDown", "Throttling",
                    "RequestLimitExceeded", "BandwidthLimitExceeded", "TooManyRequestsException"})  # fmt: skip
# What botocore mends by asking for another region or place.
_MOVED = frozenset({301, 302, 303, 307, 308})
_MOVED_CODES = frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"})
_CODE = re.compile(rb"<Code>([A-Za-z0-9._-]{1,100})</Code>")
_log = get_logger(__name__)


class Elsewhere(Exception):
    """The store sends its callers to another place: boto3 knows how to follow."""


def by_proxy(endpoint: str) -> bool:
    """Whether the environment names a proxy for this endpoint: botocore goes by it, this module cannot."""
    parts = urlsplit(endpoint)
    return parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")


def tls_context(endpoint: str) -> ssl.SSLContext | None:
    """For https: trusts what botocore trusts (AWS_CA_BUNDLE, REQUESTS_CA_BUNDLE, else its own list)."""
    if urlsplit(endpoint).scheme != "https":
        return None
    trusted = session_ca_bundle() or os.environ.get("REQUESTS_CA_BUNDLE") or str(get_cert_path(True))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if os.path.isdir(trusted):  # noqa: PTH112
        context.load_verify_locations(capath=trusted)
    else:
        context.load_verify_locations(cafile=trusted)
    return context


class ObjectPuts:
    """Of one event loop. Raises what botocore raises, and Elsewhere."""

    def __init__(
        self, endpoint: str, signer: PutSigner, *, connections: int, timeouts: tuple[float, float], attempts: int
    ) -> None:
        """`timeouts` (connect and write, read) in seconds; `attempts` in all."""
        self._endpoint, self._signer, self._attempts = endpoint, signer, attempts
        self._connections = PutConnections(endpoint, connections, timeouts, tls_context(endpoint))
        self._compares: bool | None = None  # whether the store compares checksums; not known before the first PUT
        self._running = 0
        self._busy = POOL_BUSY.labels(pool="puts")
        self._ended = asyncio.Event()

    async def put(self, key: str, data: bytes, content_type: str, sha256_hex: str) -> None:
        """Durable when it returns. At most MOST bytes."""
        self._running += 1
        self._busy.inc()
        try:
            await self._put(key, data, content_type, sha256_hex)
        finally:
            self._running -= 1
            self._busy.dec()
            self._ended.set()

    async def get(self, key: str) -> bytes | None:
        """A small object's bytes, by one attempt; None when anything else came: boto3 finds out what is wrong."""
        self._running += 1
        try:
            answer = await self._connections.put(self._signer.head_of_get(key, datetime.now(UTC)), b"")
        except (CannotConnect, Timeout, ConnectionBroken):
            return None
        finally:
            self._running -= 1
            self._ended.set()
        whole = answer.headers.get("content-length") == str(len(answer.body))
        return answer.body if answer.status == 200 and whole else None

    async def close(self) -> None:
        """Waits for what runs. Repeating it is fine."""
        while self._running:
            self._ended.clear()
            await self._ended.wait()
        self._connections.close()

    async def _put(self, key: str, data: bytes, content_type: str, sha256_hex: str) -> None:
        checksum = base64.b64encode(bytes.fromhex(sha256_hex)).decode()
        if self._compares is not False:
            answer = await self._tried(key, data, content_type, checksum, UNSIGNED)
            compared = answer.headers.get("x-amz-checksum-sha256") == checksum
            if compared:
                self._compares = True
                return
            self._compares = False
            _log.warning("storage.no_sha256_checksums", effect="payloads are signed instead")
        await self._tried(key, data, content_type, checksum, sha256_hex)

    async def _tried(self, key: str, data: bytes, content_type: str, checksum: str, payload: str) -> PutAnswer:
        attempt = 1
        while True:
            head = self._signer.head(key, len(data), content_type, checksum, payload, datetime.now(UTC))
            failure: Exception
            try:
                answer = await self._connections.put(head, data)
                if 200 <= answer.status < 300:
                    return answer
                code = _code(answer)
                if answer.status in _MOVED or code in _MOVED_CODES:
                    raise Elsewhere
                failure, again = _refusal(answer.status, code), answer.status in _TRANSIENT or code in _AGAIN
            except CannotConnect as error:
                failure, again = EndpointConnectionError(endpoint_url=self._endpoint, error=error), True
            except Timeout as error:
                kind = ConnectTimeoutError if error.connecting else ReadTimeoutError
                failure, again = kind(endpoint_url=self._endpoint, error=error), True
            except ConnectionBroken as error:
                failure, again = ConnectionClosedError(endpoint_url=self._endpoint, error=error), True
            if not again or attempt >= self._attempts:
                raise failure
            STORAGE_RETRIES.inc()
            await asyncio.sleep(min(_LONGEST_PAUSE, random.random() * 2 ** (attempt - 1)))  # noqa: S311
            attempt += 1


def _code(answer: PutAnswer) -> str:
    """The store's error code; without one the status, as botocore has it."""
    found = _CODE.search(answer.body)
    return found[1].decode() if found else str(answer.status)


def _refusal(status: int, code: str) -> ClientError:
    response: Mapping[str, object] = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "PutObject")  # type: ignore[arg-type]
