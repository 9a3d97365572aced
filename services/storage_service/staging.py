"""The staging area: `staging/{session_id}/object`, to which clients PUT by presigned URLs, whole or in parts.

Nothing here is ever a frame's object: what a client may still overwrite is read once, and those bytes are stored
under a key of their own (docs/rules.md, rule 11).
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from uuid import UUID

from botocore.exceptions import ClientError

from models.values import StagedPart
from services.storage_service.bucket import BATCH, ListedObject
from services.storage_service.client import MISSING_CODES, error_code
from services.storage_service.guard import Unguarded, WriteGuard
from services.storage_service.presign import Presigned, Presigner
from utils.exceptions import StorageUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PREFIX = "staging/"
_CHUNK = 1_048_576  # bytes
_NOT_JOINED = frozenset({"NoSuchUpload", "InvalidPart", "InvalidPartOrder", "EntityTooSmall"})
_FEW = 10  # URLs that are signed on the event loop


class Staged(NamedTuple):
    """An object in the staging area; `session_id` is None when its key is none of ours."""

    session_id: UUID | None
    item: ListedObject


class _Calls(Protocol):
    async def __call__(self, operation: str, function: Callable[..., Any], *args: Any) -> Any: ...


def staging_key(session_id: UUID) -> str:
    return f"{PREFIX}{session_id}/object"


def session_of(key: str) -> UUID | None:
    """The session that a staging key belongs to."""
    head, _, name = key.removeprefix(PREFIX).partition("/")
    try:
        session_id = UUID(head)
    except ValueError:
        return None
    return session_id if name == "object" and key == staging_key(session_id) else None


class Staging:
    """Belongs to one event loop. Raises StorageUnavailable from every call."""

    def __init__(self, bucket: str, client: S3Client, presigner: Presigner, calls: _Calls) -> None:
        """`calls` runs a blocking function in a thread, its errors as ours."""
        self._bucket = bucket
        self._client = client
        self._presigner = presigner
        self._calls = calls
        self._closed = threading.Event()
        self.guard: WriteGuard = Unguarded()

    async def begin(self, session_id: UUID) -> str:
        """Begins a multipart upload; its id."""
        await self.guard.may_write()
        return str(await self._calls("staging_begin", self._begin, staging_key(session_id)))

    async def size(self, session_id: UUID) -> int | None:
        """Bytes of the whole object; None while there is none."""
        found: int | None = await self._calls("staging_head", self._size, staging_key(session_id))
        return found

    async def parts(self, session_id: UUID, upload_id: str) -> list[StagedPart] | None:
        """The parts that have arrived, by number; None when there is no such multipart upload (any more)."""
        found: list[StagedPart] | None = await self._calls("staging_parts", self._parts, staging_key(session_id), upload_id)
        return found

    async def join(self, session_id: UUID, upload_id: str, parts: Sequence[StagedPart]) -> bool:
        """Makes the parts one object; False when the store says that they are not as given, or no longer there."""
        await self.guard.may_write()
        return bool(await self._calls("staging_join", self._join, staging_key(session_id), upload_id, parts))

    async def read(self, session_id: UUID, size: int, write: Callable[[bytes], None]) -> bool:
        """Gives the object's bytes to `write`, in a thread; what that raises comes out. False, and nothing given, when
        there is no object of `size` bytes."""
        return bool(await self._calls("staging_read", self._read, staging_key(session_id), size, write))

    async def remove(self, session_id: UUID, *, multipart: bool) -> None:
        """Removes the object, and what was begun in parts; fine when there is neither."""
        await self.guard.may_delete()
        await self._calls("staging_remove", self._remove, staging_key(session_id), multipart)

    async def listed(self) -> AsyncIterator[list[Staged]]:
        """Everything in the staging area, up to 1000 at a time."""
        token: str | None = None
        while True:
            page, token = await self._calls("staging_list", self._page, token)
            yield page
            if token is None:
                return

    async def urls(
        self, session_id: UUID, sizes: Sequence[tuple[int, int]], upload_id: str | None, at_most: float
    ) -> list[Presigned]:
        """PUT URLs for (number, bytes) of each part; of the whole without `upload_id`. Good for `at_most` seconds."""
        await self.guard.may_write()
        if len(sizes) <= _FEW:
            return self._sign(session_id, sizes, upload_id, at_most)
        found: list[Presigned] = await self._calls("presign", self._sign, session_id, sizes, upload_id, at_most)
        return found

    def close(self) -> None:
        """Ends a read that runs."""
        self._closed.set()

    # -- in threads --------------------------------------------------------------------------------------------

    def _sign(
        self, session_id: UUID, sizes: Sequence[tuple[int, int]], upload_id: str | None, at_most: float
    ) -> list[Presigned]:
        key, now = staging_key(session_id), datetime.now(UTC)
        named = {"uploadId": upload_id} if upload_id is not None else None
        return [
            self._presigner.put(key, now, size, at_most, {"partNumber": str(number), **named} if named else None)
            for number, size in sizes
        ]

    def _begin(self, key: str) -> str:
        return self._client.create_multipart_upload(Bucket=self._bucket, Key=key)["UploadId"]

    def _size(self, key: str) -> int | None:
        try:
            return self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"]
        except ClientError as error:
            if error_code(error) not in MISSING_CODES:
                raise
            self._client.head_bucket(Bucket=self._bucket)  # a HEAD's 404 has no body: it may mean the bucket
            return None

    def _parts(self, key: str, upload_id: str) -> list[StagedPart] | None:
        found: list[StagedPart] = []
        marker: dict[str, Any] = {}
        while True:
            try:
                answer = self._client.list_parts(Bucket=self._bucket, Key=key, UploadId=upload_id, **marker)
            except ClientError as error:
                if error_code(error) != "NoSuchUpload":
                    raise
                return None
            found += [
                StagedPart(item["PartNumber"], item["Size"], item["ETag"].strip('"')) for item in answer.get("Parts", [])
            ]
            if not answer.get("IsTruncated"):
                return sorted(found, key=lambda part: part.number)
            marker = {"PartNumberMarker": answer["NextPartNumberMarker"]}

    def _join(self, key: str, upload_id: str, parts: Sequence[StagedPart]) -> bool:
        listed: Any = [{"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts]
        try:
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": listed}
            )
        except ClientError as error:
            if error_code(error) not in _NOT_JOINED:
                raise
            return False
        return True

    def _read(self, key: str, size: int, write: Callable[[bytes], None]) -> bool:
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error_code(error) not in MISSING_CODES:
                raise
            return False
        body = answer["Body"]
        try:
            if answer["ContentLength"] != size:
                return False
            while chunk := body.read(_CHUNK):  # raises when the answer ends early
                if self._closed.is_set():
                    raise StorageUnavailable
                write(chunk)
        finally:
            body.close()
        return True

    def _remove(self, key: str, multipart: bool) -> None:
        if multipart:
            # By the exact key: MinIO lists by nothing shorter. A session may own one that its row does not know of.
            begun = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=key).get("Uploads", [])
            for upload_id in [item["UploadId"] for item in begun if item["Key"] == key]:
                try:
                    self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
                except ClientError as error:
                    if error_code(error) != "NoSuchUpload":
                        raise
        try:
            self._client.delete_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error_code(error) != "NoSuchKey":
                raise

    def _page(self, token: str | None) -> tuple[list[Staged], str | None]:
        more: Any = {"ContinuationToken": token} if token else {}
        answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=PREFIX, MaxKeys=BATCH, **more)
        store_time = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        items = [
            Staged(session_of(item["Key"]), ListedObject(item["Key"], item["Size"], item["LastModified"], store_time))
            for item in answer.get("Contents", [])
        ]
        return items, answer.get("NextContinuationToken") if answer.get("IsTruncated") else None
