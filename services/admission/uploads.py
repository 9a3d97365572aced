"""Uploads: files that came with the request are checked, stored, and committed as one finished request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from models.access import ALL_CAMERAS
from models.schemas import IngestionResponse, UploadIngestionRequest
from models.values import FrameRecord, ReceivedFile
from repositories.database import Database, UnitOfWork
from repositories.uploads import StoredUpload, Upload
from services.idempotency.operation import Operation
from services.reads.queries import read_request
from services.reads.serializers.frames import to_frame_info
from services.reads.serializers.requests import to_response
from services.storage_service.commit_with_reupload import commit_with_reupload
from services.upload_handler.handler import UploadHandler
from utils.exceptions import IngestionException, InvalidImage
from utils.logger import info_line
from utils.metrics import FRAMES, REJECTED
from utils.secret_box import SecretBox


async def ingest_upload(
    form: UploadIngestionRequest,
    files: Sequence[ReceivedFile],
    operation: Operation,
    *,
    database: Database,
    uploads: UploadHandler,
    secrets: SecretBox,
) -> StoredUpload | None:
    """Checks and stores the files, then commits them as one finished request under the operation's id.

    Returns the rows as committed; None with a key, whose answer is kept in their transaction.

    Raises the first 5xx, else the first file's error, with all of `rejected` in its details, when none was
    stored; DatabaseUnavailable when the rows could not be committed; RequestInProgress when the operation's key has
    gone to another request.
    """
    request_id = operation.request_id

    async def camera_zone() -> str | None:
        async with database.one_statement() as uow:
            return await uow.cameras.exif_timezone(form.camera_id)

    result = await uploads.process(request_id, form, files, datetime.now(UTC), camera_zone)
    rejected = [item.to_json() for item in result.rejected]
    for item in result.rejected:
        REJECTED.labels(code=item.code).inc()
        FRAMES.labels(source="upload", outcome="rejected").inc()
    if not result.records:
        error: IngestionException = result.first_error or InvalidImage()
        error.details["rejected"] = rejected
        raise error

    async def commit(records: Sequence[FrameRecord]) -> StoredUpload | None:
        upload = Upload(request_id, form.camera_id, form.meta.to_json(), records, result.rejected)
        if not operation.keyed:
            return await database.store_upload(upload, "upload.store")

        async def add(uow: UnitOfWork) -> None:
            await uow.requests.add_upload(upload)
            await uow.audit.write(request_id, "upload.store")
            await operation.keep(uow, await _whole(uow, request_id, secrets))

        await database.retry_until_known(add)
        return None

    by_index = {file.index: file for file in files}

    async def put_again(item: FrameRecord) -> FrameRecord:
        return await uploads.put_again(item, by_index[item.sequence])

    stored = await commit_with_reupload(result.records, commit, put_again)
    FRAMES.labels(source="upload", outcome="stored").inc(len(result.records))
    told = {
        "ingestion_id": str(request_id), "camera_id": form.camera_id, "stored": len(result.records),
        "rejected": len(rejected),
    }  # fmt: skip
    info_line(__name__, "upload_stored", told)
    return stored


async def _whole(uow: UnitOfWork, request_id: UUID, secrets: SecretBox) -> IngestionResponse:
    """The request as this transaction has it, its frames without URLs."""
    row, gaps, frames = await read_request(uow, request_id, ALL_CAMERAS)
    return to_response(row, gaps, [to_frame_info(frame, None) for frame in frames], secrets)
