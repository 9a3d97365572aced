"""The completion of a direct upload: its staging object is read, checked and committed, or refused for good."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from models.entities import UploadSession
from models.schemas import UploadIngestionRequest
from models.values import FrameRecord, ReceivedFile, SessionState
from repositories.database import Database, UnitOfWork
from repositories.uploads import Upload
from services.storage_service.commit_with_reupload import commit_with_reupload
from services.storage_service.staging import Staging
from services.upload_handler.handler import SERVER_SIDE, UploadHandler
from services.upload_sessions.plan import missing_parts, sizes_of, whole_parts
from utils.exceptions import (
    ChecksumMismatch,
    DatabaseUnavailable,
    IngestionException,
    InvalidImage,
    SessionClosed,
    SessionNotFound,
    StorageUnavailable,
    UploadIncomplete,
    UploadRefused,
)
from utils.logger import get_logger
from utils.metrics import FRAMES, REJECTED, UPLOAD_SESSIONS_ENDED
from utils.periodic import PeriodicJob

COMPLETE_LEASE = 6.0  # seconds after which a completion whose process died may be begun again
log = get_logger(__name__)


class LocalFile(Protocol):
    """Where a completion puts the staging object's bytes; called in threads. Raises DiskFull, Overloaded."""

    def write(self, data: bytes) -> None: ...
    def received(self) -> ReceivedFile: ...


class Completion:
    """Completes sessions that this process has claimed. On the event loop."""

    def __init__(self, database: Database, staging: Staging, uploads: UploadHandler) -> None:
        self._database = database
        self._staging = staging
        self._uploads = uploads

    async def run(self, row: UploadSession, etags: Mapping[int, str] | None, file: LocalFile) -> None:
        """Stores a claimed session's file. Renews the claim while it runs, then gives it back.

        Raises what `UploadSessions.complete` names.
        """

        async def renew() -> None:
            async with self._database.one_statement() as uow:
                await uow.upload_sessions.renew(row.id, row.epoch, COMPLETE_LEASE)

        # A lapse costs double work only: both completions store under the same ids, and the first row wins.
        job = PeriodicJob("upload-lease", renew, COMPLETE_LEASE / 3, at_start=False)
        job.start()
        try:
            await self._run(row, etags, file)
        finally:
            await job.stop()
            with suppress(DatabaseUnavailable):  # then it lapses
                async with self._database.one_statement() as uow:
                    await uow.upload_sessions.release(row.id, row.epoch)

    async def clear(self, row: UploadSession) -> None:
        """Removes the staging object. What cannot be removed now is left to the sweeper."""
        with suppress(StorageUnavailable, DatabaseUnavailable):
            await self._staging.remove(row.id, multipart=row.part_size is not None)
            async with self._database.one_statement() as uow:
                await uow.upload_sessions.set_cleared([row.id])

    async def _run(self, row: UploadSession, etags: Mapping[int, str] | None, file: LocalFile) -> None:
        await self._assemble(row, etags)
        if not await self._staging.read(row.id, row.size_bytes, file.write):
            raise UploadIncomplete(details={"missing_parts": [1]})
        received = await asyncio.to_thread(file.received)
        if row.sha256 is not None and received.sha256 != row.sha256:
            await self._refuse(row, ChecksumMismatch())
        form = UploadIngestionRequest.model_validate({"camera_id": row.camera_id, "meta": row.meta})
        assert row.arrived_at is not None

        async def camera_zone() -> str | None:
            async with self._database.one_statement() as uow:
                return await uow.cameras.exif_timezone(row.camera_id)

        result = await self._uploads.process(row.request_id, form, [received], row.arrived_at, camera_zone)
        if not result.records:
            error = result.first_error or InvalidImage()
            if error.retryable or error.code in SERVER_SIDE:
                raise error
            await self._refuse(row, error)

        async def commit(records: Sequence[FrameRecord]) -> None:
            await self._database.retry_until_known(lambda uow: self._store(uow, row, records))

        await commit_with_reupload(result.records, commit, lambda item: self._uploads.put_again(item, received))
        FRAMES.labels(source="upload", outcome="stored").inc()
        self._report_end(row, SessionState.COMPLETED)
        await self.clear(row)

    async def _assemble(self, row: UploadSession, etags: Mapping[int, str] | None) -> None:
        """Makes the parts one object, unless it is one already. Raises UploadIncomplete."""
        if row.part_size is None or await self._staging.size(row.id) == row.size_bytes:
            return  # of one PUT, or joined by a completion that did not come to its end
        sizes = sizes_of(row.size_bytes, row.part_size)
        listed = await self._staging.parts(row.id, row.upload_id) if row.upload_id is not None else None
        there = whole_parts(sizes, listed or [])
        missing = missing_parts(sizes, there, etags)
        if missing or row.upload_id is None:
            raise UploadIncomplete(details={"missing_parts": missing})
        if not await self._staging.join(row.id, row.upload_id, [there[number] for number, _ in sizes]):
            # A part was sent again meanwhile.
            raise UploadIncomplete(details={"missing_parts": []})

    async def _store(self, uow: UnitOfWork, row: UploadSession, records: Sequence[FrameRecord]) -> None:
        """One transaction: the request with its frame, and the session's end."""
        now = await uow.upload_sessions.lock(row.id)
        if now is None:
            raise SessionNotFound
        if now.state == SessionState.COMPLETED.value:
            return  # this very transaction, whose COMMIT was not known to have succeeded; or another completion's
        if now.state != SessionState.OPEN.value:  # it ended while this process stood still
            raise SessionClosed
        await uow.requests.add_upload(Upload(row.request_id, row.camera_id, row.meta, records, []))
        await uow.audit.write(row.id, "upload_session.complete")
        await uow.upload_sessions.end(row.id, SessionState.COMPLETED)

    async def _refuse(self, row: UploadSession, error: IngestionException) -> None:
        """Ends the session with the refusal, and raises it."""
        rejected = [
            {
                "index": 0, "filename": row.filename, "code": error.code, "detail": error.message,
                "retryable": error.retryable,
            }
        ]  # fmt: skip
        kept: dict[str, Any] = {
            "code": error.code, "message": error.message, "retryable": error.retryable, "rejected": rejected
        }  # fmt: skip
        if await self._database.retry_until_known(lambda uow: uow.upload_sessions.end(row.id, SessionState.FAILED, kept)):
            REJECTED.labels(code=error.code).inc()
            FRAMES.labels(source="upload", outcome="rejected").inc()
            self._report_end(row, SessionState.FAILED)
        await self.clear(row)
        raise UploadRefused(**kept)

    def _report_end(self, row: UploadSession, state: SessionState) -> None:
        UPLOAD_SESSIONS_ENDED.labels(status=state.value).inc()
        log.info(
            "upload_session_ended", session_id=str(row.id), ingestion_id=str(row.request_id), camera_id=row.camera_id,
            state=state.value,
        )  # fmt: skip
