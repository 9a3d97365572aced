"""Presigned GET URLs (AWS Signature Version 4, in the query string), and the endpoint that they are for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_UNSAFE_IN_FILENAME = re.compile(r"[^A-Za-z0-9._-]+")


class Presigned(NamedTuple):
    """A URL that works without credentials until `expires_at` (UTC)."""

    url: str
    expires_at: datetime


def endpoint_url(endpoint: str, secure: bool) -> str:
    """`host:port` or a URL as a URL without a trailing slash. Raises ValueError for anything that is neither."""
    url = endpoint if "://" in endpoint else f"{'https' if secure else 'http'}://{endpoint}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("an S3 endpoint is host:port, or an http(s) URL without user, query and fragment")
    return url.rstrip("/")


def safe_filename(name: str) -> str:
    """`name` with everything but `[A-Za-z0-9._-]` replaced: it becomes part of a response header."""
    return _UNSAFE_IN_FILENAME.sub("_", name)[:150].strip(".") or "frame"


class Presigner:
    """Signs for one bucket with botocore's signer. Local computation, safe in any thread, 0.4 ms a URL."""

    def __init__(self, client: S3Client, bucket: str, expiry: int) -> None:
        """`client` names the endpoint that the URLs are for; `expiry` in seconds."""
        self._client = client
        self._bucket = bucket
        self._expiry = expiry

    def get(self, key: str, response_headers: Mapping[str, str] | None = None) -> Presigned:
        """A URL for GET of `key`, valid from now; `response_headers`: e.g. `ResponseContentDisposition`."""
        # botocore takes the time itself, right after this: the URL outlives `expires_at`, if anything.
        expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=self._expiry)
        params = {"Bucket": self._bucket, "Key": key, **(response_headers or {})}
        return Presigned(
            self._client.generate_presigned_url("get_object", Params=params, ExpiresIn=self._expiry), expires_at
        )
