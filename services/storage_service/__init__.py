"""The object store: any server that speaks S3. The only module that knows boto3.

Every call runs in this service's own threads; no exception of botocore leaves it. What comes out is
StorageUnavailable (a retry can help), ObjectMissing (a row names an object that is not there) or
RangeNotSatisfiable. Objects carry a content type and no other metadata.
"""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any, NamedTuple, ParamSpec, TypeVar

from botocore.exceptions import ClientError

from config import StorageSettings
from services.storage_service.client import MISSING_CODES, STORE_FAILURES, closed, error_code, make_client, translated
from services.storage_service.keys import EXTENSIONS, new_attempt, object_key
from services.storage_service.presign import Presigned, Presigner, endpoint_url, safe_filename
from utils.exceptions import IngestionException, ObjectMissing, StorageUnavailable
from utils.logger import Throttle, get_logger
from utils.metrics import STORAGE_ERRORS, STORAGE_SECONDS
from utils.pool import WorkerPool

__all__ = ["EXTENSIONS", "ListedObject", "ObjectHead", "Presigned", "StorageService", "new_attempt", "object_key"]

CHUNK = 262_144  # bytes handed over at once by read_range
CHECK_SECONDS = 2.0
_BATCH = 1000  # keys in one DeleteObjects or ListObjectsV2 (S3's limit)
_EXISTS_ALREADY = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists", "OperationAborted"})
_log = get_logger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


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


class StorageService:
    """One bucket. Belongs to one event loop; the blocking calls run on `settings.THREADS` threads of its own.

    CONNECT_TIMEOUT bounds connecting and each write to the socket, READ_TIMEOUT each read: not a whole call.
    """

    def __init__(
        self, settings: StorageSettings, endpoint: str | None = None, access_key: str | None = None, secret_key: str | None = None
    ) -> None:
        """`endpoint`, `access_key`, `secret_key`: of the embedded server, instead of those in `settings`."""
        url = endpoint_url(endpoint or settings.ENDPOINT, settings.SECURE)
        public = endpoint_url(settings.PUBLIC_ENDPOINT, settings.SECURE) if settings.PUBLIC_ENDPOINT else url
        keys = (access_key or settings.ACCESS_KEY.get_secret_value(), secret_key or settings.SECRET_KEY.get_secret_value())
        self.bucket = settings.BUCKET_NAME
        self._region = settings.REGION
        self._pool = WorkerPool("storage", settings.THREADS)
        # The health check has threads and connections of its own: it shall not wait behind a hundred hanging PUTs.
        self._check_pool = WorkerPool("storage-check", 2)
        timeouts = {"connect_timeout": settings.CONNECT_TIMEOUT, "read_timeout": settings.READ_TIMEOUT}
        shared: dict[str, Any] = {**timeouts, "attempts": settings.MAX_ATTEMPTS, "connections": settings.THREADS}
        self._client = make_client(url, self._region, *keys, **shared)
        self._signing_client = make_client(url, self._region, *keys, **shared, sign_payload=True)
        self._check_client = make_client(
            url, self._region, *keys, connect_timeout=CHECK_SECONDS / 2, read_timeout=CHECK_SECONDS / 2, attempts=1, connections=2
        )
        self._server_checks_sha256: bool | None = None  # not known before the first PUT
        self._presigner = Presigner(public, self.bucket, self._region, *keys, settings.PRESIGN_EXPIRY)
        self._throttle = Throttle(10, time.monotonic)
        self._closed = False

    async def ensure_bucket(self) -> None:
        """Makes the bucket when it is missing. Any number of processes may do so at once."""
        await self._call("ensure_bucket", self._ensure_bucket)

    async def put(self, key: str, data: bytes, content_type: str, sha256_hex: str) -> None:
        """Stores `data`; durable when it returns. The server refuses bytes that are not those of `sha256_hex`."""
        # In one piece a body has CONNECT_TIMEOUT for all of it; as a file it is written 16 KiB at a time.
        body = data if len(data) <= 1_048_576 else io.BytesIO(data)
        await self._call("put", self._put, key, body, len(data), content_type, sha256_hex)

    async def put_file(self, key: str, path: Path, size: int, content_type: str, sha256_hex: str) -> None:
        """`put` of a file's `size` bytes, streamed. A file that cannot be read is StorageUnavailable as well."""
        await self._call("put", self._put_file, key, path, size, content_type, sha256_hex)

    async def get(self, key: str) -> bytes:
        """The whole object. Raises ObjectMissing."""
        return await self._call("get", self._get, key)

    async def read_range(self, key: str, start: int, stop: int) -> AsyncIterator[bytes]:
        """Bytes `start` to `stop` (exclusive) in chunks; errors come with the first step or any later one.

        Use it under `contextlib.aclosing`, or read it to its end: that closes the connection. Raises
        ObjectMissing, also for an object that ends before `stop`.
        """
        if start >= stop:
            return
        body = await self._call("read_range", self._open_range, key, start, stop)
        try:
            while chunk := await self._call("read_range", body.read, CHUNK):
                yield chunk
        finally:
            # In a thread: a read that was cancelled may hold the body's lock for READ_TIMEOUT.
            asyncio.get_running_loop().run_in_executor(None, body.close)

    async def head(self, key: str) -> ObjectHead | None:
        """Size and date, or None when there is no such object."""
        return await self._call("head", self._head, key)

    async def delete(self, key: str) -> None:
        """Removes the object; one that is not there is fine."""
        await self._call("delete", self._delete, key)

    async def delete_many(self, keys: Iterable[str]) -> list[str]:
        """Removes objects, 1000 a call; returns the keys that the store would not remove."""
        wanted = list(keys)
        left: list[str] = []
        for at in range(0, len(wanted), _BATCH):
            left += await self._call("delete_many", self._delete_batch, wanted[at : at + _BATCH])
        return left

    async def list_keys(self, prefix: str, start_after: str = "") -> AsyncIterator[ListedObject]:
        """Every object whose key begins with `prefix` and comes after `start_after`, in key order, 1000 a call."""
        token: str | None = None
        while True:
            page, token = await self._call("list", self._list_page, prefix, start_after, token)
            for item in page:
                yield item
            if token is None:
                return

    async def presign_get(self, key: str, content_type: str | None = None, filename: str | None = None) -> Presigned:
        """A URL for clients, on PUBLIC_ENDPOINT; with the content type and file name that the answer shall carry."""
        headers: dict[str, str] = {}
        if content_type:
            headers["response-content-type"] = content_type
        if filename:
            headers["response-content-disposition"] = f'inline; filename="{safe_filename(filename)}"'
        return self._presigner.get(key, datetime.now(UTC), headers)

    async def presign_many(self, keys: Iterable[str]) -> list[Presigned]:
        """`presign_get` of many, in order, in one thread."""
        wanted = list(keys)
        if len(wanted) <= 10:  # a third of a millisecond: less than the way to a thread and back under load
            return self._presign_all(wanted)
        return await self._call("presign", self._presign_all, wanted)

    async def check(self) -> None:
        """Raises StorageUnavailable unless the bucket can be used. Takes 2 s at most, whatever else hangs."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._call("check", self._check_client.head_bucket, pool=self._check_pool, Bucket=self.bucket)
        except TimeoutError:
            raise StorageUnavailable(details={"operation": "check", "error_code": "timeout"}) from None

    async def close(self) -> None:
        """Ends the calls that run, refuses later ones with StorageUnavailable. Repeating it is fine."""
        if self._closed:
            return
        self._closed = True
        await asyncio.gather(self._pool.close(), self._check_pool.close())
        for client in (self._client, self._signing_client, self._check_client):
            client.close()

    async def _call(
        self, operation: str, function: Callable[..., T], *args: Any, pool: WorkerPool | None = None, **kwargs: Any
    ) -> T:
        if self._closed:
            raise closed()
        try:
            return await (pool or self._pool).run(self._guarded, operation, function, *args, **kwargs)
        except (asyncio.CancelledError, RuntimeError):
            # close() drops calls that wait: cancelled futures, though nobody cancelled this task.
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise closed() from None
            raise

    def _guarded(self, operation: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Runs in a thread: the call, its metrics, and its errors as ours."""
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        except IngestionException:
            STORAGE_ERRORS.labels(operation=operation).inc()
            raise
        except STORE_FAILURES as error:
            STORAGE_ERRORS.labels(operation=operation).inc()
            raise translated(error, operation, self._throttle) from None
        finally:
            STORAGE_SECONDS.labels(operation=operation).observe(time.perf_counter() - started)

    # What follows runs in threads.

    def _ensure_bucket(self) -> None:
        try:
            self._client.head_bucket(Bucket=self.bucket)
            return
        except ClientError as error:
            if error_code(error) not in MISSING_CODES | {"NoSuchBucket"}:
                raise
        try:
            if self._region == "us-east-1":  # the one region that must not be named
                self._client.create_bucket(Bucket=self.bucket)
            else:
                self._client.create_bucket(
                    Bucket=self.bucket,
                    CreateBucketConfiguration={"LocationConstraint": self._region},  # type: ignore[typeddict-item]
                )
            _log.info("storage.bucket_created", bucket=self.bucket)
        except ClientError as error:
            if error_code(error) not in _EXISTS_ALREADY:
                raise
            self._client.head_bucket(Bucket=self.bucket)  # another process made it; somebody else's is a 403

    def _put(self, key: str, body: bytes | IO[bytes], size: int, content_type: str, sha256_hex: str) -> None:
        checksum = base64.b64encode(bytes.fromhex(sha256_hex)).decode()
        arguments: Any = {
            "Bucket": self.bucket, "Key": key, "ContentLength": size, "ContentType": content_type, "ChecksumSHA256": checksum,
        }  # fmt: skip
        if self._server_checks_sha256 is not False:
            self._server_checks_sha256 = "ChecksumSHA256" in self._client.put_object(Body=body, **arguments)
            if self._server_checks_sha256:
                return
            # A server that does not return the checksum has not compared it. All of them compare a signed payload.
            _log.warning("storage.no_sha256_checksums", effect="payloads are signed instead: 0.7 ms more CPU a PUT")
            if not isinstance(body, bytes):
                body.seek(0)
        self._signing_client.put_object(Body=body, **arguments)

    def _put_file(self, key: str, path: Path, size: int, content_type: str, sha256_hex: str) -> None:
        with path.open("rb") as file:
            self._put(key, file, size, content_type, sha256_hex)

    def _get(self, key: str) -> bytes:
        body = self._client.get_object(Bucket=self.bucket, Key=key)["Body"]
        try:
            return body.read()
        finally:
            body.close()

    def _open_range(self, key: str, start: int, stop: int) -> Any:
        answer = self._client.get_object(Bucket=self.bucket, Key=key, Range=f"bytes={start}-{stop - 1}")
        if answer["ContentLength"] != stop - start:
            answer["Body"].close()
            raise ObjectMissing("The stored object is not as long as it should be.", details={"operation": "read_range"})
        return answer["Body"]

    def _head(self, key: str) -> ObjectHead | None:
        try:
            answer = self._client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error_code(error) not in MISSING_CODES:
                raise
            self._client.head_bucket(Bucket=self.bucket)  # a HEAD's 404 has no body: it may mean the bucket
            return None
        return ObjectHead(answer["ContentLength"], answer["ETag"].strip('"'), answer["LastModified"])

    def _delete(self, key: str) -> None:
        try:
            self._client.delete_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error_code(error) != "NoSuchKey":
                raise

    def _delete_batch(self, keys: list[str]) -> list[str]:
        answer = self._client.delete_objects(
            Bucket=self.bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
        )
        return [item["Key"] for item in answer.get("Errors", []) if item.get("Code") != "NoSuchKey"]

    def _list_page(self, prefix: str, start_after: str, token: str | None) -> tuple[list[ListedObject], str | None]:
        after: Any = {"ContinuationToken": token} if token else {"StartAfter": start_after}
        answer = self._client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, MaxKeys=_BATCH, **after)
        store_time = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        items = [
            ListedObject(item["Key"], item["Size"], item["LastModified"], store_time) for item in answer.get("Contents", [])
        ]
        return items, answer.get("NextContinuationToken") if answer.get("IsTruncated") else None

    def _presign_all(self, keys: list[str]) -> list[Presigned]:
        now = datetime.now(UTC)
        return [self._presigner.get(key, now) for key in keys]
