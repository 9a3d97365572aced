"""Uploads: files that came with the request are checked, stored, and committed as one finished request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from models.access import ALL_CAMERAS
from models.entities import IngestionRequest
from models.schemas import IngestionResponse, UploadIngestionRequest
from models.values import FrameRecord, ReceivedFile, SourceType
from repositories.database import Database, UnitOfWork
from services.idempotency.operation import Operation
from services.reads.queries import read_request
from services.reads.serializers.frames import to_frame_info
from services.reads.serializers.requests import to_response
from services.storage_service.commit_with_reupload import commit_with_reupload
from services.upload_handler.handler import UploadHandler
from utils.exceptions import IngestionException, InvalidImage
from utils.logger import get_logger
from utils.metrics import FRAMES, REJECTED
from utils.secret_box import SecretBox

log = get_logger(__name__)


async def ingest_upload(
    form: UploadIngestionRequest,
    files: Sequence[ReceivedFile],
    operation: Operation,
    *,
    database: Database,
    uploads: UploadHandler,
    secrets: SecretBox,
) -> None:
    """Checks and stores the files, then commits them as one finished request under the operation's id.

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
    row = IngestionRequest(
        id=request_id, camera_id=form.camera_id, source_type=SourceType.UPLOAD.value, meta=form.meta.to_json(),
        rejected=rejected,
    )  # fmt: skip
    indexes = [item.index for item in result.rejected]

    async def commit(records: Sequence[FrameRecord]) -> None:
        async def add(uow: UnitOfWork) -> None:
            await uow.requests.add_upload(row, records, indexes)
            await uow.audit.write(request_id, "upload.store")
            if operation.keyed:
                await operation.keep(uow, await _whole(uow, request_id, secrets))

        await database.retry_until_known(add)

    by_index = {file.index: file for file in files}
    await commit_with_reupload(result.records, commit, lambda item: uploads.put_again(item, by_index[item.sequence]))
    FRAMES.labels(source="upload", outcome="stored").inc(len(result.records))
    log.info(
        "upload_stored", ingestion_id=str(request_id), camera_id=form.camera_id, stored=len(result.records),
        rejected=len(rejected),
    )  # fmt: skip


async def _whole(uow: UnitOfWork, request_id: UUID, secrets: SecretBox) -> IngestionResponse:
    """The request as this transaction has it, its frames without URLs."""
    row, gaps, frames = await read_request(uow, request_id, ALL_CAMERAS)
    return to_response(row, gaps, [to_frame_info(frame, None) for frame in frames], secrets)
