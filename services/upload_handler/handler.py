"""Uploads: each file is checked whole, dated, and its unchanged bytes put in the object store.

Longer than 250 lines: checks and conversions share the worker processes, and what their failures mean.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from config import Settings
from models.schemas import UploadIngestionRequest
from models.values import FrameRecord, ReceivedFile, Rejected, SourceType
from services.quality.keeper import QualityKeeper
from services.rtsp_capture.media.seen import MOST, detach_seen
from services.storage_service.keys import fresh_object_key, with_fresh_key
from services.storage_service.service import StorageService
from services.upload_handler.check_call import (
    CHECK,
    CHECK_BYTES,
    MOST_BACK,
    SOURCES,
    CheckedImage,
    Converted,
    arguments,
    conversion,
    image_of,
    memory_of,
)
from services.upload_handler.memory import to_read
from services.upload_handler.upload_time import needs_zone, upload_time
from utils.exceptions import DiskFull, ImageTooLarge, IngestionException, InvalidImage, Overloaded, ShuttingDown
from utils.ids import frame_id
from utils.logger import get_logger
from utils.process_pool import JobFailed, PoolClosed, PoolUnavailable, ProcessPool

__all__ = ["SERVER_SIDE", "UploadHandler", "UploadResult"]

# Codes of the service's own failures: one of them decides the answer when nothing was stored (docs/api.md, upload).
SERVER_SIDE = frozenset({"storage_unavailable", "disk_full", "shutting_down", "overloaded", "internal_error"})
LARGE = 8_388_608  # bytes
LARGE_AT_ONCE = 4  # such files put at once: more of them starve each other, and each write to a socket has a limit
# Bytes that a check may take without waiting for its share of UPLOAD__DECODE_MEMORY: a photo of 10 megapixels.
ALLOWANCE = 67_108_864
MAX_JPEG = 268_435_456  # bytes that a conversion may give
_FAILED = {
    "timeout": "The picture could not be decoded within UPLOAD__DECODE_TIMEOUT.",
    "crashed": "The picture made its decoder fail.",
    "killed": "The picture could not be decoded: its decoder was ended.",
}


CameraZone = Callable[[], Awaitable[str | None]]
"""The camera's `exif_timezone`. Raises DatabaseUnavailable."""
_log = get_logger(__name__)


@dataclass(slots=True)
class UploadResult:
    """Stored files and refused ones, both by index. `first_error`: what to answer when nothing was stored."""

    records: list[FrameRecord] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    first_error: IngestionException | None = None


class UploadHandler:
    """Belongs to one event loop. Pictures are checked in UPLOAD__DECODE_PROCESSES processes of its own."""

    def __init__(self, settings: Settings, storage: StorageService, quality: QualityKeeper | None = None) -> None:
        """Without `quality` frames have none."""
        self._settings = settings.UPLOAD
        self._storage = storage
        self._quality = quality
        self._zone = ZoneInfo(settings.UPLOAD.EXIF_TIMEZONE)
        bounds = settings.UPLOAD
        self._pool = ProcessPool(
            "images", bounds.DECODE_PROCESSES, max_memory=bounds.DECODE_MEMORY, allowance=ALLOWANCE,
            preload=[CHECK.partition(":")[0]], timeout=bounds.DECODE_TIMEOUT,
        )  # fmt: skip
        self._at_once = bounds.DECODE_PROCESSES + 2  # files of one upload: some decode while others are stored
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._closed = False

    def warm(self) -> None:
        """Starts a worker process in the background, so that the first upload does not wait for it."""
        self._pool.warm()

    async def process(
        self,
        request_id: UUID,
        form: UploadIngestionRequest,
        files: Sequence[ReceivedFile],
        arrived_at: datetime,
        camera_zone: CameraZone | None = None,
    ) -> UploadResult:
        """Checks and stores each file; a bad one, or one whose PUT failed, does not stop the others.

        `camera_zone` is asked where a time depends on it.

        The objects are durable when it returns, the rows are the caller's to commit; objects whose rows never
        come are left to the sweeper (a commit whose outcome is unknown may still happen). Raises ShuttingDown
        after `close`, and nothing else for whatever is in the files.
        """
        if self._closed:
            raise ShuttingDown()
        room = asyncio.Semaphore(self._at_once)

        async def bounded(file: ReceivedFile) -> FrameRecord | IngestionException:
            async with room:
                return await self._one(request_id, form, file, arrived_at, camera_zone)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(bounded(file)) for file in files]
        result = UploadResult()
        errors: list[IngestionException] = []
        for file, task in zip(files, tasks, strict=True):
            outcome = task.result()
            if isinstance(outcome, FrameRecord):
                result.records.append(outcome)
            else:
                errors.append(outcome)
                result.rejected.append(Rejected(file.index, file.filename, outcome.code, outcome.message, outcome.retryable))
        own = (error for error in errors if error.code in SERVER_SIDE)
        result.first_error = next(own, errors[0] if errors else None)
        return result

    async def put_again(self, record: FrameRecord, file: ReceivedFile) -> FrameRecord:
        """Stores a file's bytes under a new key: the sweeper took the one of `record`. Raises StorageUnavailable."""
        again = with_fresh_key(record)
        await self._put(again.storage_path, file, again.content_type)
        return again

    async def to_jpeg(self, data: bytes, kind: str, width: int, height: int) -> Converted:
        """A stored picture of this kind and size (of its row) as JPEG, upright, at most LONGEST pixels wide and high.

        Raises ImageTooLarge, InvalidImage, Overloaded, ShuttingDown.
        """
        return await self._converted("to_jpeg", data, kind, memory_of(kind, len(data), width, height))

    async def whole_jpeg(self, data: bytes, kind: str, width: int, height: int) -> Converted:
        """The same in its size."""
        return await self._converted("whole_jpeg", data, kind, memory_of(kind, len(data), width, height))

    async def thumbnail(self, data: bytes, kind: str, size: tuple[int, int], width: int) -> Converted:
        """A stored picture of this kind and size (of its row) as a JPEG at most `width` wide. Raises as `to_jpeg`."""
        reduced = kind == "jpg" and size[0] > 2 * width and size[1] > 2 * width
        return await self._converted("thumbnail", data, kind, memory_of(kind, len(data), *size, reduced=reduced), width)

    async def _converted(self, name: str, data: bytes, kind: str, memory: int, *more: int) -> Converted:
        if memory > self._pool.largest:
            raise ImageTooLarge("Converting the picture needs more memory than UPLOAD__DECODE_MEMORY.")
        try:
            answer, made = await self._pool.run_with_bytes(
                conversion(name, kind), kind, self._settings.MAX_PIXELS, *more,
                attached=[data], most=MAX_JPEG + MOST, memory=max(memory, self._pool.allowance),
            )  # fmt: skip
        except JobFailed as failure:
            _log.warning("picture_not_shown", reason=failure.reason, error=failure.error)
            raise InvalidImage(_FAILED.get(failure.reason)) from None
        except PoolUnavailable:
            raise Overloaded("No process is free to convert the picture. Try again.") from None
        except PoolClosed:
            raise ShuttingDown() from None
        if kind not in SOURCES:
            return Converted(made, None)
        (seen,), made = detach_seen(answer, made, 1)
        return Converted(made, seen)

    async def close(self) -> None:
        """Waits for the pictures being checked. Repeating it is fine."""
        self._closed = True
        await self._pool.close()

    async def _one(
        self,
        request_id: UUID,
        form: UploadIngestionRequest,
        file: ReceivedFile,
        arrived_at: datetime,
        camera_zone: CameraZone | None,
    ) -> FrameRecord | IngestionException:
        try:
            image = await self._check(file)
            zone = self._zone
            if camera_zone is not None and needs_zone(form.meta.timestamp_ref, image.exif):
                zone = await self._zone_of(camera_zone)
            return await self._store(request_id, form, file, image, arrived_at, zone)
        except IngestionException as error:
            return error
        except OSError as error:
            _log.error("upload.temporary_file", index=file.index, errno=error.errno)
            if error.errno in (errno.EMFILE, errno.ENFILE):
                return Overloaded()
            return DiskFull() if error.errno in (errno.ENOSPC, errno.EDQUOT) else IngestionException()

    async def _check(self, file: ReceivedFile) -> CheckedImage:
        """The picture. Raises its refusal, Overloaded, ShuttingDown, OSError (of the temporary file)."""
        settings = self._settings
        try:
            memory = to_read(file.size)
            for _ in range(2):  # the second time with the memory that the picture's headers ask for
                if memory > self._pool.largest:
                    raise ImageTooLarge("Decoding the picture needs more memory than UPLOAD__DECODE_MEMORY.")
                granted = max(memory, self._pool.allowance)
                call = arguments(file, settings.formats, settings.MAX_PIXELS, granted, self._pool.largest)
                answer: dict[str, Any]
                view = b""
                if file.data is None:
                    answer = await self._pool.run(CHECK, *call, memory=granted)
                else:
                    with_bytes = self._pool.run_with_bytes
                    answer, view = await with_bytes(
                        CHECK_BYTES, *call, attached=[file.data], most=MOST_BACK, memory=granted
                    )  # fmt: skip
                memory = answer.get("needs", 0)
                if not memory:
                    return image_of(answer, view)
            raise InvalidImage()
        except JobFailed as failure:
            # Of the type alone: what the decoder says may quote the file.
            _log.warning("upload.check_failed", index=file.index, reason=failure.reason, error=failure.error)
            if failure.error == "MemoryError":
                raise ImageTooLarge("The picture needs more memory than its headers say.") from None
            raise InvalidImage(_FAILED.get(failure.reason)) from None
        except PoolUnavailable:
            raise Overloaded("No process is free to check the picture. Try again.") from None
        except PoolClosed:
            raise ShuttingDown() from None

    async def _zone_of(self, camera_zone: CameraZone) -> ZoneInfo:
        name = await camera_zone()
        try:
            return ZoneInfo(name) if name else self._zone
        except (ValueError, OSError):  # this machine's time zones lack it
            _log.warning("upload.unknown_time_zone", name=name)
            return self._zone

    async def _store(
        self,
        request_id: UUID,
        form: UploadIngestionRequest,
        file: ReceivedFile,
        image: CheckedImage,
        arrived_at: datetime,
        zone: ZoneInfo,
    ) -> FrameRecord:
        taken = upload_time(form.meta.timestamp_ref, image.exif, zone, arrived_at)
        identity = frame_id(request_id, file.index, taken.at)
        key = fresh_object_key(form.camera_id, identity, taken.at, image.format)
        quality = None
        if self._quality is not None:
            quality = await self._quality.judge(form.camera_id, SourceType.UPLOAD, image.measures, taken.at)
        async with self._large if file.size > LARGE else nullcontext():
            await self._put(key, file, image.content_type)
        return FrameRecord(
            frame_id=identity, request_id=request_id, camera_id=form.camera_id, source_type=SourceType.UPLOAD,
            sequence=file.index, storage_path=key, timestamp=taken.at, timestamp_source=taken.source,
            timestamp_uncertainty_ms=taken.uncertainty_ms, width=image.width, height=image.height,
            size_bytes=file.size, format=image.format, content_type=image.content_type, sha256=file.sha256,
            filename=file.filename, exif=self._recorded(image.exif), meta=form.meta.to_json(),
            quality=quality,
        )  # fmt: skip

    async def _put(self, key: str, file: ReceivedFile, content_type: str) -> None:
        if file.data is None:
            await self._storage.put_file(key, file.path, file.size, content_type, file.sha256)
        else:
            await self._storage.put(key, file.data, content_type, file.sha256)

    def _recorded(self, exif: dict[str, Any] | None) -> dict[str, Any] | None:
        """What the row tells of a picture's EXIF: where it was taken only if UPLOAD__KEEP_GPS says so."""
        if exif is None or self._settings.KEEP_GPS:
            return exif
        return {name: value for name, value in exif.items() if name != "gps"} or None
