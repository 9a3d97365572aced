"""Thumbnails of stored frames: from memory, else from the store, else made by a worker process and put there.

No row tells of a thumbnail: its key is made of the frame's (`thumbnail_key`), it can be made again at any time, and the
widths are few. A frame's deletion deletes them all; what a crash leaves, the sweeper finds (`thumbnail_leftovers`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from models.access import Principal
from models.entities import Frame
from repositories.database import Database
from services.rtsp_capture.frames.integrity import FrameIntegrity
from services.storage_service.keys import THUMBNAIL_WIDTHS, thumbnail_key
from services.storage_service.service import StorageService
from services.upload_handler.handler import UploadHandler
from utils.concurrency_limit import ConcurrencyLimit
from utils.exceptions import FrameNotFound, ImageTooLarge, InvalidImage, StorageUnavailable
from utils.kept_bytes import KeptBytes
from utils.metrics import THUMBNAILS

MAX_KEPT_BYTES = 16_777_216
MAX_READ = 268_435_456  # bytes of a frame that is made smaller
MAKING = 2  # at once
WAITING = 200  # for that: a page of a list asks for as many as it has frames
_BUSY = "Too many thumbnails are being made. Try again."


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A JPEG, upright, without EXIF."""

    etag: str
    load: Callable[[], Coroutine[Any, Any, bytes]]
    """Its bytes. Raises FrameNotFound, ImageTooLarge, InvalidImage, StorageUnavailable, ObjectMissing, Overloaded."""


class Thumbnails:
    """On the event loop."""

    def __init__(
        self, database: Database, storage: StorageService, uploads: UploadHandler, integrity: FrameIntegrity
    ) -> None:  # fmt: skip
        self._database, self._storage, self._uploads = database, storage, uploads
        self._integrity = integrity
        self._kept = KeptBytes(MAX_KEPT_BYTES)
        self._limit = ConcurrencyLimit(MAKING, WAITING, _BUSY)

    async def get(self, frame_id: UUID, width: int, who: Principal) -> Thumbnail:
        """`width` in pixels, rounded up to one of THUMBNAIL_WIDTHS. Raises FrameNotFound, DatabaseUnavailable."""
        async with self._database.reading() as uow:
            row = await uow.frames.get_stored(frame_id, who.cameras)
        if row is None:
            raise FrameNotFound
        wide = next(each for each in THUMBNAIL_WIDTHS if each >= width)
        return Thumbnail(f'"{row.sha256}-{wide}"', partial(self._load, row, wide))

    async def _load(self, row: Frame, width: int) -> bytes:
        key = thumbnail_key(row.storage_path, width)
        return await self._kept.get(key, partial(self._find_or_make, row, width, key))

    async def _find_or_make(self, row: Frame, width: int, key: str) -> bytes:
        if (found := await self._storage.find(key)) is not None:
            THUMBNAILS.labels(outcome="found").inc()
            return found
        if row.size_bytes > MAX_READ:
            raise ImageTooLarge("The frame is too large for a thumbnail.")
        async with self._limit.permit():
            data = await self._storage.get(row.storage_path)
            converted = await self._uploads.thumbnail(data, row.format, (row.width, row.height), width)
        await self._integrity.shown(row, converted.seen)
        if not (made := converted.data):
            raise InvalidImage("Nothing of the picture can be decoded.")
        THUMBNAILS.labels(outcome="made").inc()
        try:
            await self._storage.put(key, made, "image/jpeg", hashlib.sha256(made).hexdigest())
        except StorageUnavailable:
            THUMBNAILS.labels(outcome="not_kept").inc()  # it is shown all the same, and made again
            return made
        async with self._database.reading() as uow:
            now = await uow.frames.get(row.id)
        if now is None or now.state != "stored":  # deleted meanwhile, maybe before the thumbnail was there
            await self._storage.delete(key)
            raise FrameNotFound
        return made
