"""What the tests of sweeper, retention and verify share: a database and a bucket of their own, frames, orphans."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from config import RetentionSettings, SweeperSettings
from models.entities import IngestionRequest
from models.values import FrameRecord, SourceType, TimestampSource
from repositories.database import Database
from services.housekeeping.bucket_guard import BucketGuard
from services.housekeeping.bucket_marker import BucketMarker
from services.housekeeping.orphan_sweeper import OrphanSweeper
from services.housekeeping.retention import Retention
from services.housekeeping.retention_policy import of_settings
from services.storage_service.keys import fresh_object_key
from services.storage_service.service import StorageService
from tests.conftest import Backends, migrated_database
from tests.kits.uploads import upload_of
from utils.ids import frame_id, new_id

X_SHA256 = hashlib.sha256(b"x").hexdigest()
AT = datetime(2026, 5, 4, 13, 30, tzinfo=UTC)


class AppliedRetention(Retention):
    """One whose settings are the policy."""

    async def poll(self) -> int:
        async with self._database.unit_of_work() as uow:
            await uow.retention.set_policy(of_settings(self._settings), replace=True)
        return await super().poll()


@dataclass
class Place:
    backends: Backends
    database: Database
    storage: StorageService

    @property
    def marker(self) -> BucketMarker:
        return BucketMarker(self.database, self.storage)

    def guard(self) -> BucketGuard:
        return BucketGuard(self.marker)

    def sweeper(self, **settings: Any) -> OrphanSweeper:
        """GRACE: none, unless it is given: every object counts as old."""
        values = SweeperSettings().model_copy(update={"GRACE": -1.0, "MAX_DELETES_PER_SECOND": 10_000.0, **settings})
        return OrphanSweeper(values, self.database, self.storage, self.guard())

    def retention(self, **settings: Any) -> Retention:
        """Its settings become the policy, as by `retention apply`; without a daily cap, unless one is given."""
        values = RetentionSettings(**{"MAX_DELETES_PER_SECOND": 10_000.0, "MAX_SHARE_PER_DAY": 1.0, **settings})
        return AppliedRetention(values, self.database, self.storage, self.guard())

    async def record(self, camera_id: str = "cam", data: bytes | None = None, at: datetime = AT) -> FrameRecord:
        """An object, and the record of the frame that it would be."""
        data = data if data is not None else secrets.token_bytes(200)
        request_id = new_id()
        identity = frame_id(request_id, 0, at)
        key = fresh_object_key(camera_id, identity, at, "jpg")
        digest = hashlib.sha256(data).hexdigest()
        await self.storage.put(key, data, "image/jpeg", digest)
        return FrameRecord(
            frame_id=identity, request_id=request_id, camera_id=camera_id, source_type=SourceType.UPLOAD, sequence=0,
            storage_path=key, timestamp=at, timestamp_source=TimestampSource.UPLOAD, timestamp_uncertainty_ms=None,
            width=4, height=4, size_bytes=len(data), format="jpg", content_type="image/jpeg", sha256=digest,
        )  # fmt: skip

    async def commit(self, record: FrameRecord) -> None:
        row = IngestionRequest(id=record.request_id, camera_id=record.camera_id, source_type="upload", meta={}, rejected=[])
        async with self.database.unit_of_work() as uow:
            await uow.requests.add_upload(upload_of(row, [record], []))

    async def frame(self, camera_id: str = "cam", data: bytes | None = None, at: datetime = AT) -> FrameRecord:
        """A stored frame."""
        record = await self.record(camera_id, data, at)
        await self.commit(record)
        return record

    async def keys(self, prefix: str = "frames/") -> set[str]:
        return {item.key async for item in self.storage.list_keys(prefix)}

    async def sql(self, statement: str, **values: Any) -> list[Any]:
        async with self.database.unit_of_work() as uow:
            result: Any = await uow.session.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

    async def state(self, record: FrameRecord) -> str:
        return str((await self.sql("SELECT state FROM frames WHERE id = :id", id=record.frame_id))[0][0])

    async def aged(self, record: FrameRecord, days: float) -> None:
        """As if the frame had been stored that long ago."""
        await self.sql(
            "UPDATE frames SET stored_at = now() - make_interval(secs => :s) WHERE id = :id",
            s=days * 86_400, id=record.frame_id,
        )  # fmt: skip

    async def emptied(self) -> Place:
        """No rows, no objects, and the bucket its own again, as after the first start."""
        await self.sql(
            "TRUNCATE ingestion_requests, object_keys, camera_configurations, outbox_pending, storage_changes, "
            "retention_policy, retention_tallies, deleted_cameras CASCADE"
        )
        await self.sql("UPDATE storage_usage SET bytes = 0, frames = 0")
        await self.sql("DELETE FROM sweeper_state")
        await self.sql("INSERT INTO sweeper_state (id) VALUES (1)")
        await self.storage.delete_many(await self.keys(""))
        await self.marker.check()
        return self


@asynccontextmanager
async def open_place(backends: Backends, bucket: str) -> AsyncIterator[Place]:
    """An empty database and a bucket."""
    own = replace(
        backends,
        db=await migrated_database(backends.db, f"sweep_{secrets.token_hex(5)}"),
        storage=backends.storage.model_copy(update={"BUCKET_NAME": bucket}),
    )
    database, storage = Database(own.db, "trackshift-sweep"), StorageService(own.storage)
    try:
        await storage.ensure_bucket()
        yield Place(own, database, storage)
    finally:
        await storage.close()
        await database.close()
