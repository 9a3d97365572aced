"""Receives one upload: its form, and its files in memory, or in a temporary folder that ends with the request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.requests import Request

from api.http.admission import Held
from api.http.body import chunks
from api.http.multipart import FormReader
from api.http.pace import Pace, request_pace
from api.http.state import AppState
from api.http.upload_folder import StagedFile, UploadFolder, in_memory
from config import Settings
from models.schemas import UploadIngestionRequest
from models.values import ReceivedFile

OVERHEAD = 1_048_576  # bytes of boundaries, part headers and fields beside the files
IN_MEMORY = 8_388_608  # bytes of a body; a larger one goes to disk as it arrives
_FLUSH_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class ReceivedForm:
    """A whole, valid upload. The files exist until its context ends."""

    fields: UploadIngestionRequest
    files: list[ReceivedFile]


def body_limit(settings: Settings) -> int:
    return settings.UPLOAD.MAX_BATCH_SIZE * settings.UPLOAD.MAX_FILE_SIZE + OVERHEAD


@asynccontextmanager
async def receive_form(
    request: Request, boundary: bytes, state: AppState, held: Held, declared: int | None
) -> AsyncIterator[ReceivedForm]:
    """Receives the whole body and yields the form; the files are removed at the end in every case.

    A body of at most IN_MEMORY bytes stays in memory where UPLOAD__MEMORY has room for it: no file is written.

    `declared`: the Content-Length. Raises Overloaded, and RateLimited for a caller that holds its share, when the bytes
    that have come go past UPLOAD__MAX_BYTES_IN_FLIGHT; RequestTimeout.
    """
    settings = state.settings
    limit = body_limit(settings)
    pace = request_pace(settings.API, limit if declared is None else declared)
    if declared is not None and declared <= IN_MEMORY and state.upload_memory.take(declared):
        try:
            await state.disk.check(declared)
            reader = FormReader(boundary, settings, in_memory=True)
            async for data in chunks(request, pace, limit, held):
                reader.feed(data)
            form, files = reader.result()
            received = in_memory(reader.take(), files)
            yield ReceivedForm(form, received)
        finally:
            state.upload_memory.give(declared)
        return
    async with _on_disk(request, boundary, state, held, declared, pace) as found:
        yield found


@asynccontextmanager
async def _on_disk(
    request: Request, boundary: bytes, state: AppState, held: Held, declared: int | None, pace: Pace
) -> AsyncIterator[ReceivedForm]:
    settings, pool = state.settings, state.upload_pool
    folder = UploadFolder(state.temp, settings.UPLOAD.DISK_RESERVE)
    reader = FormReader(boundary, settings)
    limit = body_limit(settings)
    try:
        await pool.run(folder.create, declared or 0)
        async for data in chunks(request, pace, limit, held):
            reader.feed(data)
            if reader.waiting >= _FLUSH_BYTES:
                await pool.run(folder.apply, reader.take())
        form, files = reader.result()
        await pool.run(folder.apply, reader.take())
        yield ReceivedForm(form, [file.received() for file in files])
    finally:
        # Shielded: a cancelled request still leaves nothing behind.
        await asyncio.shield(pool.run(folder.remove))


@asynccontextmanager
async def local_file(state: AppState, size: int, filename: str, declared_type: str | None) -> AsyncIterator[StagedFile]:
    """A temporary file for `size` bytes of a direct upload; removed at the end in every case. Raises DiskFull."""
    folder = UploadFolder(state.temp, state.settings.UPLOAD.DISK_RESERVE)
    try:
        await state.upload_pool.run(folder.create, size)
        yield StagedFile(folder, filename, declared_type)
    finally:
        await asyncio.shield(state.upload_pool.run(folder.remove))
