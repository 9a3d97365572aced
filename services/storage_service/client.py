"""boto3 clients as this service needs them, and botocore's errors as this service's own."""

from __future__ import annotations

import threading
from functools import cache
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from utils.exceptions import IngestionException, ObjectMissing, RangeNotSatisfiable, StorageFull, StorageUnavailable
from utils.logger import Throttle, get_logger

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Whatever a call to a store can fail with: botocore's own, what urllib3 lets through while a body is read, sockets, files.
STORE_FAILURES = (BotoCoreError, ClientError, HTTPError, OSError)
MISSING_CODES = frozenset({"NoSuchKey", "404", "NotFound"})
_FULL = 507  # MinIO's answer; SeaweedFS has no room for a volume and says 500
_FULL_CODES = frozenset({"XMinioStorageFull", "InsufficientStorage", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded"})
_MESSAGE = "The object store cannot be used right now. Try again."
_log = get_logger(__name__)
_making = threading.Lock()  # a session is not safe for threads; its clients are


@cache
def _session() -> boto3.session.Session:
    """One a process: each session reads the description of S3 again, 0.2 s of CPU."""
    return boto3.session.Session()


def session_ca_bundle() -> str | None:
    """The file with trusted certificates that AWS_CA_BUNDLE, or the AWS configuration, names."""
    with _making:
        found = _session()._session.get_config_variable("ca_bundle")
    return str(found) if found else None


def make_client(
    endpoint: str,
    region: str,
    access_key: str,
    secret_key: str,
    *,
    timeouts: tuple[float, float],
    attempts: int,
    connections: int,
    sign_payload: bool = False,
) -> S3Client:
    """A client for one endpoint URL; `timeouts` (connect, read) in seconds, `attempts` in all (1: no retry).

    Without `sign_payload` a PUT costs 2.4 ms of CPU instead of 3.3 (250 KB): the body is covered by
    x-amz-checksum-sha256, which the caller knows already, which is part of the signature and which the
    server compares with the bytes; signing the payload would hash it here once more, the default CRC too.
    """
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path", "payload_signing_enabled": sign_payload},
        connect_timeout=timeouts[0],
        read_timeout=timeouts[1],
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=connections,
        tcp_keepalive=True,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    with _making:
        return _session().client(
            "s3", endpoint_url=endpoint, region_name=region, aws_access_key_id=access_key,
            aws_secret_access_key=secret_key, config=config,
        )  # fmt: skip


def error_code(error: Exception) -> str:
    """The store's error code (`NoSuchKey`, `SlowDown`, `403`), else the exception's class. Never its text."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "unknown"))
    return type(error).__name__


def translated(error: Exception, operation: str, throttle: Throttle) -> IngestionException:
    """This service's error for `error`, logged. Texts of botocore hold endpoints and key ids: only codes go on."""
    code = error_code(error)
    if operation in ("get", "read_range", "digest") and code in MISSING_CODES:
        _log.error("storage.object_missing", operation=operation)
        return ObjectMissing(details={"operation": operation})
    if code == "InvalidRange":
        return RangeNotSatisfiable()
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(error, ClientError) else None
    withheld = throttle.allow(f"{operation}:{code}")
    if withheld is not None:
        _log.warning("storage.failed", operation=operation, error_code=code, http_status=status, withheld=withheld)
    details = {"operation": operation, "error_code": code}
    if status == _FULL or code in _FULL_CODES:
        return StorageFull(details=details)
    return StorageUnavailable(_MESSAGE, details=details)


def closed() -> StorageUnavailable:
    """The error of a call after `close`."""
    return StorageUnavailable(_MESSAGE, details={"error_code": "closed"})
