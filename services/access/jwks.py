"""Where the public keys of JWTs come from: a file, or a URL that is fetched seldom and never trusted blindly."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from joserfc.jwk import KeySet

from utils.logger import get_logger

log = get_logger(__name__)

MAX_BYTES = 65_536
REFRESH_EVERY = 30.0  # seconds between two fetches, whatever `kid` tokens name
GOOD_FOR = 86_400.0  # seconds that the last good set is used when none can be fetched
FRESH_FOR = 300.0  # seconds after which a set is fetched again though it knows the `kid`
TIMEOUT = 5.0  # seconds of one fetch
_TYPES = ("RSA", "EC", "OKP")


class KeysUnavailable(Exception):
    """There is no key set that may be used."""


def parse_keys(data: bytes) -> KeySet:
    """The public signature keys of a JWK Set; private and symmetric ones are left out. Raises ValueError."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    document = json.loads(data)
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise ValueError("not a JWK Set")
    usable: list[Any] = [
        key for key in keys
        if isinstance(key, dict) and key.get("kty") in _TYPES and key.get("use", "sig") == "sig" and "d" not in key
        and isinstance(key.get("kid", ""), str)
    ]  # fmt: skip
    if not usable:
        raise ValueError("no public signature key in the set")
    return KeySet.import_key_set({"keys": usable})


def fetch(url: str, timeout: float = TIMEOUT) -> bytes:
    """The document; in a thread. No redirects, at most MAX_BYTES. Raises OSError, ValueError, http.client.HTTPException."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.netloc, timeout=timeout, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Accept": "application/jwk-set+json, application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"answered {answer.status}")
        deadline, data = time.monotonic() + timeout, b""
        while chunk := answer.read1(16_384):
            data += chunk
            if len(data) > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES} bytes")
            if time.monotonic() > deadline:
                raise ValueError("took too long")
        return data
    finally:
        connection.close()


class KeySource:
    """The key set of a file or URL, kept in memory. Belongs to the event loop."""

    def __init__(
        self, *, file: Path | None = None, url: str = "", clock: Callable[[], float] = time.monotonic,
        read: Callable[[], bytes] | None = None,
    ) -> None:  # fmt: skip
        """`clock` and `read` stand in for the time and the document in tests."""
        self._what = "AUTH__JWKS_FILE" if file is not None else "AUTH__JWKS_URL"
        self._read = read or (file.read_bytes if file is not None else lambda: fetch(url))
        self._clock = clock
        self._keys: KeySet | None = None
        self._fetched = self._tried = float("-inf")
        self._lock = asyncio.Lock()

    async def keys(self, kid: str | None) -> KeySet:
        """The set, fetched again when it is old or lacks `kid`, at most once in REFRESH_EVERY. Raises KeysUnavailable."""
        if self._stale(kid):
            async with self._lock:
                if self._stale(kid):
                    await self._refresh()
        if self._keys is None or self._clock() - self._fetched > GOOD_FOR:
            raise KeysUnavailable
        return self._keys

    def _stale(self, kid: str | None) -> bool:
        now = self._clock()
        if now - self._tried < REFRESH_EVERY:
            return False
        known = self._keys is not None and (kid is None or any(key.kid == kid for key in self._keys.keys))
        return not known or now - self._fetched > FRESH_FOR

    async def _refresh(self) -> None:
        self._tried = self._clock()
        try:
            self._keys = parse_keys(await asyncio.to_thread(self._read))
            self._fetched = self._tried
        except Exception as error:  # whatever a stranger's document makes of it: the last good set stays
            log.warning("jwks_not_read", source=self._what, error=type(error).__name__)
