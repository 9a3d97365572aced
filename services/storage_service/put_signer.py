"""PUTs signed by ourselves (AWS Signature Version 4, header `Authorization`): 0.03 ms each instead of botocore's 0.4.

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
        path = quote(self._place.prefix + key, safe="/~")
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        scope = f"{stamp[:8]}/{self._region}/s3/aws4_request"
        lines = (
            f"content-type:{content_type}\nhost:{self._place.host}\nx-amz-checksum-sha256:{checksum}\n"
            f"x-amz-content-sha256:{payload}\nx-amz-date:{stamp}\n"
        )
        canonical = f"PUT\n{path}\n\n{lines}\n{_NAMES}\n{payload}"
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._keys.of(stamp[:8]), to_sign.encode(), "sha256").hex()
        return (
            f"PUT {path} HTTP/1.1\r\nHost: {self._place.host}\r\nContent-Type: {content_type}\r\nContent-Length: {size}\r\n"
            f"X-Amz-Checksum-Sha256: {checksum}\r\nX-Amz-Content-SHA256: {payload}\r\nX-Amz-Date: {stamp}\r\n"
            f"Authorization: AWS4-HMAC-SHA256 Credential={self._access_key}/{scope}, SignedHeaders={_NAMES}, "
            f"Signature={signature}\r\n\r\n"
        ).encode()
