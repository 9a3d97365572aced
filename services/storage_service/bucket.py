"""The calls on one bucket as they block: boto3 in a thread. `StorageService` runs them and translates their errors."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError

from services.storage_service.client import MISSING_CODES, error_code
from utils.exceptions import ObjectMissing
from utils.logger import get_logger

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BATCH = 1000  # keys in one DeleteObjects or ListObjectsV2 (S3's limit)
_EXISTS_ALREADY = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists", "OperationAborted"})
_THERE_ALREADY = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_NO_CONDITIONS = frozenset({"NotImplemented", "501", "InvalidArgument", "InvalidRequest", "400"})
_DIGEST_CHUNK = 1_048_576  # bytes
_log = get_logger(__name__)


class ObjectHead(NamedTuple):
    size: int  # bytes
    etag: str
    last_modified: datetime


class ListedObject(NamedTuple):
    """`store_time` is the store's own clock at the listing: ages are `store_time - last_modified`."""

    key: str
    size: int  # bytes
    last_modified: datetime
    store_time: datetime


class Digest(NamedTuple):
    """What an object's bytes are, read from its first to its last."""

    size: int
    sha256: str  # hex


class Bucket:
    """One bucket, any thread. Raises what botocore raises."""

    def __init__(self, name: str, region: str, client: S3Client, signing_client: S3Client) -> None:
        """`signing_client` hashes and signs payloads: for servers that do not compare checksums."""
        self._name = name
        self._region = region
        self._client = client
        self._signing_client = signing_client
        self._server_checks_sha256: bool | None = None  # not known before the first PUT

    def ensure(self) -> None:
        try:
            self._client.head_bucket(Bucket=self._name)
            return
        except ClientError as error:
            if error_code(error) not in MISSING_CODES | {"NoSuchBucket"}:
                raise
        try:
            if self._region == "us-east-1":  # the one region that must not be named
                self._client.create_bucket(Bucket=self._name)
            else:
                self._client.create_bucket(
                    Bucket=self._name,
                    CreateBucketConfiguration={"LocationConstraint": self._region},  # type: ignore[typeddict-item]
                )
            _log.info("storage.bucket_created", bucket=self._name)
        except ClientError as error:
            if error_code(error) not in _EXISTS_ALREADY:
                raise
            self._client.head_bucket(Bucket=self._name)  # another process made it; somebody else's is a 403

    def put(self, key: str, body: bytes | IO[bytes], size: int, content_type: str, sha256_hex: str) -> None:
        checksum = base64.b64encode(bytes.fromhex(sha256_hex)).decode()
        arguments: Any = {
            "Bucket": self._name, "Key": key, "ContentLength": size, "ContentType": content_type, "ChecksumSHA256": checksum,
        }  # fmt: skip
        if self._server_checks_sha256 is not False:
            answer = self._client.put_object(Body=body, **arguments)
            self._server_checks_sha256 = answer.get("ChecksumSHA256") == checksum
            if self._server_checks_sha256:
                return
            # A server that does not return the checksum has not compared it. All of them compare a signed payload.
            _log.warning("storage.no_sha256_checksums", effect="payloads are signed instead: 0.7 ms more CPU a PUT")
            if not isinstance(body, bytes):
                body.seek(0)
        self._signing_client.put_object(Body=body, **arguments)

    def put_file(self, key: str, path: Path, size: int, content_type: str, sha256_hex: str) -> None:
        with path.open("rb") as file:
            self.put(key, file, size, content_type, sha256_hex)

    def get(self, key: str) -> bytes:
        body = self._client.get_object(Bucket=self._name, Key=key)["Body"]
        try:
            return body.read()
        finally:
            body.close()

    def find(self, key: str) -> bytes | None:
        try:
            return self.get(key)
        except ClientError as error:
            if error_code(error) not in MISSING_CODES:
                raise
            return None

    def put_if_absent(self, key: str, data: bytes, content_type: str) -> None:
        """Writes an object unless there is one. Where the server knows no If-None-Match, who writes last wins."""
        arguments: Any = {"Bucket": self._name, "Key": key, "Body": data, "ContentType": content_type}
        try:
            self._signing_client.put_object(IfNoneMatch="*", **arguments)
        except ClientError as error:
            if error_code(error) in _THERE_ALREADY:
                return
            if error_code(error) not in _NO_CONDITIONS:
                raise
            if self.head(key) is None:
                self._signing_client.put_object(**arguments)

    def digest(self, key: str) -> Digest:
        answer = self._client.get_object(Bucket=self._name, Key=key)
        body, size, summed = answer["Body"], 0, hashlib.sha256()
        try:
            for chunk in body.iter_chunks(_DIGEST_CHUNK):
                size += len(chunk)
                summed.update(chunk)
        finally:
            body.close()
        return Digest(size, summed.hexdigest())

    def open_range(self, key: str, start: int, stop: int) -> Any:
        answer = self._client.get_object(Bucket=self._name, Key=key, Range=f"bytes={start}-{stop - 1}")
        if answer["ContentLength"] != stop - start:
            answer["Body"].close()
            raise ObjectMissing("The stored object is not as long as it should be.", details={"operation": "read_range"})
        return answer["Body"]

    def head(self, key: str) -> ObjectHead | None:
        try:
            answer = self._client.head_object(Bucket=self._name, Key=key)
        except ClientError as error:
            if error_code(error) not in MISSING_CODES:
                raise
            self._client.head_bucket(Bucket=self._name)  # a HEAD's 404 has no body: it may mean the bucket
            return None
        return ObjectHead(answer["ContentLength"], answer["ETag"].strip('"'), answer["LastModified"])

    def delete(self, key: str) -> None:
        try:
            self._client.delete_object(Bucket=self._name, Key=key)
        except ClientError as error:
            if error_code(error) != "NoSuchKey":
                raise

    def delete_batch(self, keys: Sequence[str]) -> list[str]:
        answer = self._client.delete_objects(
            Bucket=self._name, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
        )
        return [item["Key"] for item in answer.get("Errors", []) if item.get("Code") != "NoSuchKey"]

    def list_page(self, prefix: str, start_after: str, token: str | None) -> tuple[list[ListedObject], str | None]:
        after: Any = {"ContinuationToken": token} if token else {"StartAfter": start_after}
        answer = self._client.list_objects_v2(Bucket=self._name, Prefix=prefix, MaxKeys=BATCH, **after)
        store_time = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        items = [
            ListedObject(item["Key"], item["Size"], item["LastModified"], store_time) for item in answer.get("Contents", [])
        ]
        return items, answer.get("NextContinuationToken") if answer.get("IsTruncated") else None

    def folders_page(self, prefix: str, token: str | None) -> tuple[list[str], str | None]:
        after: Any = {"ContinuationToken": token} if token else {}
        answer = self._client.list_objects_v2(Bucket=self._name, Prefix=prefix, Delimiter="/", MaxKeys=BATCH, **after)
        names = [item["Prefix"].removeprefix(prefix).rstrip("/") for item in answer.get("CommonPrefixes", [])]
        return names, answer.get("NextContinuationToken") if answer.get("IsTruncated") else None
