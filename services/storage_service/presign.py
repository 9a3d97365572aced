"""Presigned URLs (AWS Signature Version 4, query string), made by hand: 0.01 ms each instead of botocore's 0.4.

A list answers up to 200 of them: botocore's signer, in a thread, kept the GIL and with it the event loop for 50-125 ms
then; with this one the longest pause was 27 ms (tests/integration/service/test_service_load.py). A unit test compares every
part with botocore's own.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, urlsplit


class Served(NamedTuple):
    """An object as clients shall get it: its key, and what Content-Type and Content-Disposition say."""

    key: str
    content_type: str
    disposition: str

    def overrides(self) -> dict[str, str]:
        """The query parameters by which a store answers with these headers, whatever the object was stored with."""
        return {"response-content-type": self.content_type, "response-content-disposition": self.disposition}


class Prepared(NamedTuple):
    """What a GET of an object signs whenever it is signed: the quoted path, and the query behind the moment's part."""

    path: bytes
    query: bytes


class Presigned(NamedTuple):
    """A URL that works without credentials until `expires_at` (UTC)."""

    url: str
    expires_at: datetime


class _Moment(NamedTuple):
    """What depends on the second, the expiry and the names of the signed headers only."""

    asked: tuple[int, int, str]
    query: str
    to_sign: str
    key: bytes
    keyed: tuple[hashlib._Hash, hashlib._Hash]
    expires_at: datetime


_PATH = re.compile(r"[A-Za-z0-9/._~-]*")  # nothing to quote
_HEADER = re.compile(r'[A-Za-z0-9._~; ="-]*')  # four characters to quote, in nearly every disposition


@lru_cache(maxsize=1000)
def _quoted(value: str) -> str:
    if _HEADER.fullmatch(value):  # a fifth of the time of `quote`, and each frame has a disposition of its own
        return value.replace(";", "%3B").replace(" ", "%20").replace("=", "%3D").replace('"', "%22")
    return quote(value, safe="-_.~")


def _keyed(key: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """HMAC-SHA-256 (RFC 2104, section 2) up to its text: two hashes, to be copied. `key`: at most 64 bytes.

    1.6 µs for each text beside 3.0 of a copied `hmac.HMAC` and 4.1 of `hmac.digest`.
    """
    padded = key.ljust(64, b"\0")
    return hashlib.sha256(bytes(byte ^ 0x36 for byte in padded)), hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))


def _named(parameters: Mapping[str, str]) -> str:
    """Query parameters behind those of the moment: their names begin with small letters, so they come after those."""
    return "".join([f"&{name}={_quoted(value)}" for name, value in sorted(parameters.items())])


def endpoint_url(endpoint: str, secure: bool) -> str:
    """`host:port` or a URL as a URL without a trailing slash. Raises ValueError for anything that is neither."""
    url = endpoint if "://" in endpoint else f"{'https' if secure else 'http'}://{endpoint}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("an S3 endpoint is host:port, or an http(s) URL without user, query and fragment")
    return url.rstrip("/")


class Place(NamedTuple):
    """Where a bucket's objects are, as signatures name it: the Host header, and the path before a key."""

    host: str
    prefix: str

    @classmethod
    def of(cls, endpoint: str, bucket: str) -> Place:
        parts = urlsplit(endpoint)
        default_port = {"http": 80, "https": 443}[parts.scheme]
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else f"{parts.hostname}"
        return cls(host if parts.port in (None, default_port) else f"{host}:{parts.port}", f"{parts.path}/{bucket}/")


class DayKeys:
    """The signing key of each day. Any thread."""

    def __init__(self, secret_key: str, region: str) -> None:
        self._secret, self._region = f"AWS4{secret_key}".encode(), region
        self._newest: tuple[str, bytes] = ("", b"")

    def of(self, day: str) -> bytes:
        """`day`: YYYYMMDD."""
        cached = self._newest  # one tuple: two threads at midnight at worst derive the same key twice
        if cached[0] == day:
            return cached[1]
        key = self._secret
        for part in (day, self._region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        self._newest = (day, key)
        return key


class Presigner:
    """Signs for one endpoint and bucket. Pure computation, safe in any thread."""

    def __init__(self, endpoint: str, bucket: str, region: str, access_key: str, secret_key: str, expiry: int) -> None:
        """`endpoint` as `endpoint_url` gives it; `expiry` in seconds."""
        place = Place.of(endpoint, bucket)
        self._host, self._prefix = place.host, place.prefix
        parts = urlsplit(endpoint)
        self._base = f"{parts.scheme}://{parts.netloc}"
        self._region = region
        self._access_key = access_key
        self._keys = DayKeys(secret_key, region)
        self._expiry = expiry
        self._moment: _Moment | None = None

    def prepare(self, served: Served) -> Prepared:
        """What does not depend on the time."""
        return Prepared(self._path(served.key).encode(), _named(served.overrides()).encode())

    def sign(self, objects: Iterable[Prepared], now: datetime) -> tuple[list[bytes], datetime]:
        """URLs for GET of objects, in order, valid from `now`, and when they expire: 2.3 µs each, for pages of them."""
        moment = self._moment_of(now, self._expiry, "host")
        base, query, to_sign, sha256 = self._base.encode(), moment.query.encode(), moment.to_sign.encode(), hashlib.sha256
        rest = f"\nhost:{self._host}\n\nhost\nUNSIGNED-PAYLOAD".encode()
        inner, outer = moment.keyed
        urls = []
        for path, own in objects:
            first, second = inner.copy(), outer.copy()
            canonical = b"GET\n%b\n%b%b%b" % (path, query, own, rest)
            first.update(b"%b%b" % (to_sign, sha256(canonical).hexdigest().encode()))
            second.update(first.digest())
            urls.append(b"%b%b?%b%b&X-Amz-Signature=%b" % (base, path, query, own, second.hexdigest().encode()))
        return urls, moment.expires_at

    def get(self, key: str, now: datetime, response_headers: Mapping[str, str] | None = None) -> Presigned:
        """A URL for GET of `key`, valid from `now`; `response_headers`: e.g. `response-content-disposition`."""
        asked = Prepared(self._path(key).encode(), _named(response_headers or {}).encode())
        (url,), expires_at = self.sign([asked], now)
        return Presigned(url.decode(), expires_at)

    def put(self, key: str, now: datetime, size: int, at_most: float, query: Mapping[str, str] | None = None) -> Presigned:
        """A URL for PUT of exactly `size` bytes to `key`, valid for `at_most` seconds or less: the length is signed.

        `query`: `partNumber` and `uploadId` of a part.
        """
        expiry = max(1, min(self._expiry, int(at_most)))
        moment = self._moment_of(now, expiry, "content-length;host")
        lines = f"content-length:{size}\nhost:{self._host}\n"
        path, asked = self._path(key), moment.query + _named(query or {})
        canonical = f"PUT\n{path}\n{asked}\n{lines}\n{moment.asked[2]}\nUNSIGNED-PAYLOAD"
        to_sign = moment.to_sign + hashlib.sha256(canonical.encode()).hexdigest()
        signature = hmac.digest(moment.key, to_sign.encode(), "sha256").hex()
        return Presigned(f"{self._base}{path}?{asked}&X-Amz-Signature={signature}", moment.expires_at)

    def _path(self, key: str) -> str:
        path = self._prefix + key
        return path if _PATH.fullmatch(path) else quote(path, safe="/~")

    def _moment_of(self, now: datetime, expiry: int, names: str) -> _Moment:
        """What all URLs of one second share: a list signs up to 200 in one."""
        cached = self._moment
        asked = (int(now.timestamp()), expiry, names)
        if cached is not None and cached.asked == asked:
            return cached
        now = now.astimezone(UTC).replace(microsecond=0)
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        scope = f"{stamp[:8]}/{self._region}/s3/aws4_request"
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{self._access_key}/{scope}",
            "X-Amz-Date": stamp,
            "X-Amz-Expires": str(expiry),
            "X-Amz-SignedHeaders": names,
        }
        key = self._keys.of(stamp[:8])
        self._moment = moment = _Moment(
            asked, "&".join(f"{name}={_quoted(value)}" for name, value in query.items()),
            f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n", key, _keyed(key),
            now + timedelta(seconds=expiry),
        )  # fmt: skip
        return moment
