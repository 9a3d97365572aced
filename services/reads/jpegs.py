"""Stored frames of other kinds as JPEGs in their size: made on demand by a worker process, kept in memory for a while."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from models.access import Principal
from models.entities import Frame
from repositories.database import Database
from services.reads.serializers.frames import name_of
from services.rtsp_capture.frames.integrity import FrameIntegrity
from services.storage_service.service import StorageService
from services.upload_handler.handler import UploadHandler
from utils.concurrency_limit import ConcurrencyLimit
from utils.disposition import inline
from utils.exceptions import FrameNotFound, ImageTooLarge, InvalidImage
from utils.kept_bytes import KeptBytes

MAX_KEPT_BYTES = 33_554_432
MAX_READ = 268_435_456  # bytes of a frame that is converted
MAKING = 2  # at once
WAITING = 50  # for that
_BUSY = "Too many frames are being converted. Try again."


@dataclass(frozen=True, slots=True)
class JpegContent:
    """A frame as JPEG, made when its size or its bytes are asked for."""

    etag: str
    content_type: str
    disposition: str
    presigned_url: None
    _jpegs: Jpegs
    _row: Frame

    async def size(self) -> int:
        """In bytes. Raises ImageTooLarge, InvalidImage, StorageUnavailable, ObjectMissing, Overloaded."""
        return len(await self._jpegs.data(self._row))

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes [start, stop). Raises as `size`."""
        yield (await self._jpegs.data(self._row))[start:stop]


class Jpegs:
    """On the event loop."""

    def __init__(
        self, database: Database, storage: StorageService, uploads: UploadHandler, integrity: FrameIntegrity
    ) -> None:  # fmt: skip
        self._database, self._storage, self._uploads = database, storage, uploads
        self._integrity = integrity
        self._kept = KeptBytes(MAX_KEPT_BYTES)
        self._limit = ConcurrencyLimit(MAKING, WAITING, _BUSY)

    async def open(self, frame_id: UUID, who: Principal) -> JpegContent | None:
        """None: the frame is a JPEG as it is stored. Raises FrameNotFound, DatabaseUnavailable."""
        async with self._database.reading() as uow:
            row = await uow.frames.get_stored(frame_id, who.cameras)
        if row is None:
            raise FrameNotFound
        if row.format == "jpg":
            return None
        return JpegContent(f'"{row.sha256}-jpeg"', "image/jpeg", inline(name_of(row), "jpg"), None, self, row)

    async def data(self, row: Frame) -> bytes:
        """Raises ImageTooLarge, InvalidImage, StorageUnavailable, ObjectMissing, Overloaded."""
        return await self._kept.get(f"{row.id}", partial(self._make, row))

    async def _make(self, row: Frame) -> bytes:
        if row.size_bytes > MAX_READ:
            raise ImageTooLarge("The frame is too large to be converted.")
        async with self._limit.permit():
            data = await self._storage.get(row.storage_path)
            made = await self._uploads.whole_jpeg(data, row.format, row.width, row.height)
        await self._integrity.shown(row, made.seen)
        if not made.data:
            raise InvalidImage("Nothing of the picture can be decoded.")
        return made.data
