"""The object store: any server that speaks S3. The only module that knows boto3.

Every call runs in this service's own threads; no exception of botocore leaves it. What comes out is
StorageUnavailable (a retry can help), ObjectMissing (a row names an object that is not there) or
RangeNotSatisfiable. Objects carry a content type and no other metadata.

Longer than 250 lines: all calls on the store, with one way for their errors and metrics.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from config import StorageSettings
from services.storage_service.bucket import BATCH, Bucket, Digest, ListedObject, ObjectHead
from services.storage_service.client import STORE_FAILURES, closed, make_client, translated
from services.storage_service.guard import Unguarded, WriteGuard
from services.storage_service.keys import EXTENSIONS, MARKER_KEY
from services.storage_service.presign import Prepared, Presigned, Presigner, Served, endpoint_url
from services.storage_service.put_signer import PutSigner
from services.storage_service.puts import MOST, Elsewhere, ObjectPuts, by_proxy
from services.storage_service.staging import Staging
from utils.exceptions import IngestionException, StorageUnavailable
from utils.logger import Throttle
from utils.metrics import STORAGE_ERRORS, STORAGE_SECONDS
from utils.pool import WorkerPool

__all__ = [
    "EXTENSIONS", "Digest", "ListedObject", "ObjectHead", "Presigned", "Served", "Staging", "StorageService",
]  # fmt: skip

CHUNK = 262_144  # bytes handed over at once by read_range
CHECK_SECONDS = 2.0
STAGING_THREADS = 4  # apart from the others': reading a large upload shall not keep a capture's PUT waiting
T = TypeVar("T")


class StorageService:
    """One bucket. Belongs to one event loop; the blocking calls run on `settings.THREADS` threads of its own.

    CONNECT_TIMEOUT bounds connecting and each write to the socket, READ_TIMEOUT each read: not a whole call. A service
    gives it a guard (`guard_with`) before anything else uses it; then what the guard refuses is StorageUnavailable.
    """

    def __init__(
        self,
        settings: StorageSettings,
        endpoint: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
    ) -> None:
        """`endpoint`, `access_key`, `secret_key`: of the embedded server, instead of those in `settings`."""
        url = endpoint_url(endpoint or settings.ENDPOINT, settings.SECURE)
        public = endpoint_url(settings.PUBLIC_ENDPOINT, settings.SECURE) if settings.PUBLIC_ENDPOINT else url
        keys = (access_key or settings.ACCESS_KEY.get_secret_value(), secret_key or settings.SECRET_KEY.get_secret_value())
        region, threads = settings.REGION, settings.THREADS
        self.bucket = settings.BUCKET_NAME
        self.public_url = public  # what presigned URLs begin with
        self._pool = WorkerPool("storage", threads)
        # The health check has threads and connections of its own: it shall not wait behind a hundred hanging PUTs.
        self._check_pool = WorkerPool("storage-check", 2)
        timeouts = (settings.CONNECT_TIMEOUT, settings.READ_TIMEOUT)
        client = make_client(url, region, *keys, timeouts=timeouts, attempts=settings.MAX_ATTEMPTS, connections=threads)
        signing = make_client(
            url, region, *keys, timeouts=timeouts, attempts=settings.MAX_ATTEMPTS, connections=threads, sign_payload=True
        )
        each = CHECK_SECONDS / 3
        self._check_client = make_client(url, region, *keys, timeouts=(each, each), attempts=1, connections=2)
        self._bucket = Bucket(self.bucket, region, client, signing)
        self._presigner = Presigner(public, self.bucket, region, *keys, settings.PRESIGN_EXPIRY)
        self._puts: ObjectPuts | None = None  # with a proxy to go by, boto3 does all PUTs
        if not by_proxy(url):
            signer = PutSigner(url, self.bucket, region, *keys)
            self._puts = ObjectPuts(url, signer, connections=threads, timeouts=timeouts, attempts=settings.MAX_ATTEMPTS)
        # Staging has a client of its own too: its threads shall find a connection each.
        staging = make_client(
            url, region, *keys, timeouts=timeouts, attempts=settings.MAX_ATTEMPTS, connections=STAGING_THREADS
        )
        self._staging_pool = WorkerPool("staging", STAGING_THREADS)
        self._guard: WriteGuard = Unguarded()
        self.staging = Staging(self.bucket, staging, self._presigner, partial(self._call, pool=self._staging_pool))
        self._clients = (client, signing, staging, self._check_client)
        self._throttle = Throttle(10, time.monotonic)
        self._suspect = False  # the newest call that ended found no store
        self._running_check: asyncio.Task[None] | None = None
        self._closed = False

    def guard_with(self, guard: WriteGuard) -> None:
        """From now on nothing is written or deleted without the guard's leave, in the staging area neither."""
        self._guard = self.staging.guard = guard

    async def ensure_bucket(self) -> None:
        """Makes the bucket when it is missing. Any number of processes may do so at once."""
        await self._call("ensure_bucket", self._bucket.ensure)

    async def put(self, key: str, data: bytes, content_type: str, sha256_hex: str) -> None:
        """Stores `data`; durable when it returns. The server refuses bytes that are not those of `sha256_hex`."""
        await self._guard.may_write()
        if self._puts is not None and len(data) <= MOST:
            try:
                await self._put_here(self._puts, key, data, content_type, sha256_hex)
                return
            except Elsewhere:
                pass
        # In one piece a body has CONNECT_TIMEOUT for all of it; as a file it is written 16 KiB at a time.
        body = data if len(data) <= 1_048_576 else io.BytesIO(data)
        await self._call("put", self._bucket.put, key, body, len(data), content_type, sha256_hex)

    async def put_file(self, key: str, path: Path, size: int, content_type: str, sha256_hex: str) -> None:
        """`put` of a file's `size` bytes, streamed. A file that cannot be read is StorageUnavailable as well."""
        await self._guard.may_write()
        await self._call("put", self._bucket.put_file, key, path, size, content_type, sha256_hex)

    async def put_if_absent(self, key: str, data: bytes, content_type: str) -> None:
        """Writes a small object unless there is one under that key; read it back to see whose it is. Unguarded, as
        `put_marker`: the guard goes by what these two write."""
        await self._call("put", self._bucket.put_if_absent, key, data, content_type)

    async def put_marker(self, key: str, data: bytes, content_type: str) -> None:
        """Writes a small object over what is there."""
        await self._call("put", self._bucket.put, key, data, len(data), content_type, hashlib.sha256(data).hexdigest())

    async def digest(self, key: str) -> Digest:
        """Size and SHA-256 of the object's bytes, all of them read. Raises ObjectMissing."""
        return await self._call("digest", self._bucket.digest, key)

    async def get(self, key: str) -> bytes:
        """The whole object. Raises ObjectMissing."""
        return await self._call("get", self._bucket.get, key)

    async def get_small(self, key: str) -> bytes:
        """`get` of an object of a few kilobytes, without a thread where that works."""
        if self._puts is not None and not self._closed:
            started = time.perf_counter()
            if (found := await self._puts.get(key)) is not None:
                self._suspect = False
                STORAGE_SECONDS.labels(operation="get").observe(time.perf_counter() - started)
                return found
        return await self.get(key)

    async def find(self, key: str) -> bytes | None:
        """The whole object, None when there is none: for what no row promises."""
        return await self._call("find", self._bucket.find, key)

    async def read_range(self, key: str, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Bytes `start` to `stop` (exclusive) in chunks; errors come with the first step or any later one.

        Use it under `contextlib.aclosing`, or read it to its end: that closes the connection. Raises
        ObjectMissing, also for an object that ends before `stop`.
        """
        if start >= stop:
            return
        body = await self._call("read_range", self._bucket.open_range, key, start, stop)
        try:
            while chunk := await self._call("read_range", body.read, CHUNK):
                yield chunk
        finally:
            # In a thread: a read that was cancelled may hold the body's lock for READ_TIMEOUT.
            asyncio.get_running_loop().run_in_executor(None, body.close)

    async def head(self, key: str) -> ObjectHead | None:
        """Size and date, or None when there is no such object."""
        return await self._call("head", self._bucket.head, key)

    async def delete(self, key: str) -> None:
        """Removes the object; one that is not there is fine."""
        await self._guard.may_delete()
        await self._call("delete", self._bucket.delete, key)

    async def delete_many(self, keys: Iterable[str]) -> list[str]:
        """Removes objects, 1000 a call; returns the keys that the store would not remove."""
        wanted = list(keys)
        left: list[str] = []
        for at in range(0, len(wanted), BATCH):
            await self._guard.may_delete()
            left += await self._call("delete_many", self._bucket.delete_batch, wanted[at : at + BATCH])
        return left

    async def list_keys(self, prefix: str, start_after: str = "") -> AsyncIterator[ListedObject]:
        """Every object whose key begins with `prefix` and comes after `start_after`, in key order, 1000 a call."""
        token: str | None = None
        while True:
            page, token = await self._call("list", self._bucket.list_page, prefix, start_after, token)
            for item in page:
                yield item
            if token is None:
                return

    async def list_page(self, prefix: str, start_after: str) -> tuple[list[ListedObject], bool]:
        """At most 1000 objects that come after `start_after`, in key order, and whether more follow."""
        page, token = await self._call("list", self._bucket.list_page, prefix, start_after, None)
        return page, token is not None

    async def list_folders(self, prefix: str) -> list[str]:
        """The names directly below the prefix that have keys below them (`a` for `{prefix}a/...`), in any order."""
        names, token = await self._call("list", self._bucket.folders_page, prefix, None)
        while token is not None:
            more, token = await self._call("list", self._bucket.folders_page, prefix, token)
            names += more
        return names

    async def presign(self, objects: Iterable[Served]) -> list[Presigned]:
        """URLs for clients, on PUBLIC_ENDPOINT, in order. The answers carry each object's type and disposition."""
        wanted = list(objects)
        if len(wanted) <= 50:  # a millisecond: little more than the way to a thread and back under load
            return self._presign_all(wanted)
        return await self._call("presign", self._presign_all, wanted)

    def prepare(self, served: Served) -> Prepared:
        """What `sign` needs of an object, worth keeping."""
        return self._presigner.prepare(served)

    def sign(self, objects: Iterable[Prepared]) -> tuple[list[bytes], datetime]:
        """As `presign`, of prepared objects, and when the URLs expire; on the event loop for all of a page."""
        return self._presigner.sign(objects, datetime.now(UTC))

    async def check(self) -> None:
        """Raises StorageUnavailable unless the bucket can be used. Takes 2 s at most, whatever else hangs.

        The bucket's marker is read; boto3 in a thread asks for the bucket where that is not answered at once.
        """
        if self._puts is not None and not self._closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS / 4):
                    if await self._puts.get(MARKER_KEY) is not None:
                        self._suspect = False
                        return
        try:
            async with asyncio.timeout(0.75 * CHECK_SECONDS):
                await self._call("check", self._check_client.head_bucket, pool=self._check_pool, Bucket=self.bucket)
        except TimeoutError:
            self._suspect = True
            raise StorageUnavailable(details={"operation": "check", "error_code": "timeout"}) from None

    async def check_when_suspect(self) -> None:
        """Nothing while calls succeed. After one that found no store: `check`, one at a time for all who ask meanwhile,
        until one finds it again. So nobody is refused while the store is up. Raises StorageUnavailable, also when the
        guard lets nothing be written."""
        await self._guard.may_write()
        if not self._suspect:
            return
        if self._running_check is None or self._running_check.done():
            self._running_check = asyncio.create_task(self.check(), name="storage-check")
            self._running_check.add_done_callback(lambda task: task.cancelled() or task.exception())  # asked for or not
        await asyncio.shield(self._running_check)

    async def close(self) -> None:
        """Ends the calls that run, refuses later ones with StorageUnavailable. Repeating it is fine."""
        if self._closed:
            return
        self._closed = True
        self.staging.close()
        if self._puts is not None:
            await self._puts.close()
        await asyncio.gather(self._pool.close(), self._staging_pool.close(), self._check_pool.close())
        for client in self._clients:
            client.close()

    def _presign_all(self, objects: list[Served]) -> list[Presigned]:
        now = datetime.now(UTC)
        return [self._presigner.get(item.key, now, item.overrides()) for item in objects]

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

    async def _put_here(self, puts: ObjectPuts, key: str, data: bytes, content_type: str, sha256_hex: str) -> None:
        """`ObjectPuts.put`, with its metrics, and its errors as ours."""
        if self._closed:
            raise closed()
        started = time.perf_counter()
        try:
            await puts.put(key, data, content_type, sha256_hex)
            self._suspect = False
        except STORE_FAILURES as error:
            raise self._failed("put", error) from None
        finally:
            STORAGE_SECONDS.labels(operation="put").observe(time.perf_counter() - started)

    def _failed(self, operation: str, error: Exception) -> IngestionException:
        STORAGE_ERRORS.labels(operation=operation).inc()
        ours = translated(error, operation, self._throttle)
        self._suspect = isinstance(ours, StorageUnavailable)
        return ours

    def _guarded(self, operation: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Runs in a thread: the call, its metrics, and its errors as ours."""
        started = time.perf_counter()
        try:
            answer = function(*args, **kwargs)
            if operation != "presign":  # which asks no store
                self._suspect = False
            return answer
        except IngestionException:
            STORAGE_ERRORS.labels(operation=operation).inc()
            raise
        except STORE_FAILURES as error:
            raise self._failed(operation, error) from None
        finally:
            STORAGE_SECONDS.labels(operation=operation).observe(time.perf_counter() - started)
