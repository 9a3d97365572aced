"""Receives one upload: body to form and temporary files, which never outlive the request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.requests import Request

from api.body import chunks
from api.multipart import FormReader
from api.spool import UploadFolder
from config import Settings
from models.schemas import UploadIngestionRequest
from models.values import ReceivedFile
from utils.pool import WorkerPool

OVERHEAD = 1_048_576  # bytes of boundaries, part headers and fields beside the files
_FLUSH_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class ReceivedForm:
    """A whole, valid upload; the files are there until the context that gave it ends."""

    fields: UploadIngestionRequest
    files: list[ReceivedFile]


def body_limit(settings: Settings) -> int:
    return settings.UPLOAD.MAX_BATCH_SIZE * settings.UPLOAD.MAX_FILE_SIZE + OVERHEAD


@asynccontextmanager
async def receive_form(
    request: Request, boundary: bytes, expected: int, settings: Settings, pool: WorkerPool
) -> AsyncIterator[ReceivedForm]:
    """Receives the whole body, then gives the form; the files are removed at the end, whatever happens."""
    folder = UploadFolder(settings.temp_dir, settings.UPLOAD.DISK_RESERVE)
    reader = FormReader(boundary, settings)
    try:
        await pool.run(folder.create, expected)
        async for data in chunks(request, settings.API.BODY_TIMEOUT, body_limit(settings)):
            reader.feed(data)
            if reader.waiting >= _FLUSH_BYTES:
                await pool.run(folder.apply, reader.take())
        form, files = reader.result()
        await pool.run(folder.apply, reader.take())
        yield ReceivedForm(
            form,
            [
                ReceivedFile(f.index, f.filename, f.declared_type, f.path, f.size, f.digest.hexdigest(), f.too_large)
                for f in files
            ],
        )
    finally:
        # Shielded: a cancelled request still leaves nothing behind.
        await asyncio.shield(pool.run(folder.remove))
