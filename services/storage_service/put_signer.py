"""PUTs, and GETs of small objects, signed by ourselves (AWS Signature Version 4, header `Authorization`).

0.03 ms each instead of botocore's 0.4.

By header rather than by query: so the payload can be signed too where a store compares no checksums, and no URL that works
without credentials is in the store's access log. A unit test compares each header with botocore's.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from urllib.parse import quote

from services.storage_service.presign import DayKeys, Place

UNSIGNED = "UNSIGNED-PAYLOAD"
_NAMES = "content-type;host;x-amz-checksum-sha256;x-amz-content-sha256;x-amz-date"
_NAMES_OF_GET = "host;x-amz-content-sha256;x-amz-date"
_NO_BODY = hashlib.sha256().hexdigest()


class PutSigner:
    """For one endpoint and bucket. Pure computation, safe in any thread."""

    def __init__(self, endpoint: str, bucket: str, region: str, access_key: str, secret_key: str) -> None:
        """`endpoint` as `endpoint_url` gives it."""
        self._place = Place.of(endpoint, bucket)
        self._access_key, self._region = access_key, region
        self._keys = DayKeys(secret_key, region)

    def head(self, key: str, size: int, content_type: str, checksum: str, payload: str, now: datetime) -> bytes:
        """Request line and headers of the PUT of an object of `size` bytes.

        `checksum`: SHA-256 in base64, which the store compares; `payload`: UNSIGNED, or the SHA-256 in hex. `now`: UTC.
        """
        path, stamp = self._path(key), now.strftime("%Y%m%dT%H%M%SZ")
        lines = (
            f"content-type:{content_type}\nhost:{self._place.host}\nx-amz-checksum-sha256:{checksum}\n"
            f"x-amz-content-sha256:{payload}\nx-amz-date:{stamp}\n"
        )
        authorization = self._authorization(f"PUT\n{path}\n\n{lines}\n{_NAMES}\n{payload}", stamp, _NAMES)
        return (
            f"PUT {path} HTTP/1.1\r\nHost: {self._place.host}\r\nContent-Type: {content_type}\r\nContent-Length: {size}\r\n"
            f"X-Amz-Checksum-Sha256: {checksum}\r\nX-Amz-Content-SHA256: {payload}\r\nX-Amz-Date: {stamp}\r\n"
            f"{authorization}\r\n\r\n"
        ).encode()

    def head_of_get(self, key: str, now: datetime) -> bytes:
        """Those of a GET."""
        path, stamp = self._path(key), now.strftime("%Y%m%dT%H%M%SZ")
        lines = f"host:{self._place.host}\nx-amz-content-sha256:{_NO_BODY}\nx-amz-date:{stamp}\n"
        authorization = self._authorization(f"GET\n{path}\n\n{lines}\n{_NAMES_OF_GET}\n{_NO_BODY}", stamp, _NAMES_OF_GET)
        return (
            f"GET {path} HTTP/1.1\r\nHost: {self._place.host}\r\nX-Amz-Content-SHA256: {_NO_BODY}\r\nX-Amz-Date: {stamp}\r\n"
            f"{authorization}\r\n\r\n"
        ).encode()

    def _path(self, key: str) -> str:
        return quote(self._place.prefix + key, safe="/~")

    def _authorization(self, canonical: str, stamp: str, names: str) -> str:
        scope = f"{stamp[:8]}/{self._region}/s3/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._keys.of(stamp[:8]), to_sign.encode(), "sha256").hex()
        credential = f"Credential={self._access_key}/{scope}"
        return f"Authorization: AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}"
