"""Receives one upload: its form, and its files in a temporary folder that ends with the request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.requests import Request

from api.http.admission import Admitted
from api.http.body import body_deadline, chunks
from api.http.multipart import FormReader
from api.http.state import AppState
from api.http.upload_folder import StagedFile, UploadFolder
from config import Settings
from models.schemas import UploadIngestionRequest
from models.values import ReceivedFile

OVERHEAD = 1_048_576  # bytes of boundaries, part headers and fields beside the files
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
    request: Request, boundary: bytes, state: AppState, share: Admitted
) -> AsyncIterator[ReceivedForm]:
    """Receives the whole body and yields the form; the files are removed at the end in every case.

    Raises Overloaded when a body of unknown length goes past UPLOAD__MAX_BYTES_IN_FLIGHT.
    """
    settings, pool = state.settings, state.upload_pool
    folder = UploadFolder(state.temp, settings.UPLOAD.DISK_RESERVE)
    reader = FormReader(boundary, settings)
    seen = 0
    try:
        await pool.run(folder.create, share.held)
        async for data in chunks(request, body_deadline(settings.API), body_limit(settings)):
            seen += len(data)
            share.cover(seen)
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
