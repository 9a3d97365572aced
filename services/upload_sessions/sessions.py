"""Direct uploads: the client PUTs a file to the staging area, whole or in parts, then has it checked and stored.

The completion reads the staging object once into a local file and treats that file as a form's: same checks, same
refusals, same objects and rows (services.upload_handler). Whoever still has a URL can change the staging object, and
changes nothing of what was checked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from config import Settings
from models.access import Principal
from models.entities import UploadSession
from models.schemas import UploadSessionCreate, UploadSessionResponse
from models.values import SessionState
from repositories.database import Database, UnitOfWork
from services.access.shares import Shares
from services.reads.serializers.upload_sessions import Arrived, to_session
from services.storage_service.service import StorageService
from services.storage_service.staging import Staging
from services.upload_handler.formats import format_by_name
from services.upload_handler.handler import UploadHandler
from services.upload_sessions.completion import COMPLETE_LEASE, Completion, LocalFile
from services.upload_sessions.plan import part_size_of, sizes_of, whole_parts
from utils.exceptions import (
    DatabaseUnavailable,
    PayloadTooLarge,
    SessionBusy,
    SessionClosed,
    SessionNotFound,
    ShuttingDown,
    StorageUnavailable,
    TooManyPending,
    UploadRefused,
)
from utils.ids import new_id
from utils.logger import get_logger
from utils.metrics import UPLOAD_SESSIONS_ENDED

COMPLETE_WAIT = 10.0  # seconds that a second completion waits for the first one's outcome
_POLL_INTERVAL = 0.25
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of a session before it is completed: the stored request, or the file that is to be read."""

    request_id: UUID | None
    filename: str
    content_type: str | None
    size_bytes: int


class UploadSessions:
    """Belongs to one event loop. Its state is in PostgreSQL and the staging area: any process serves any session."""

    def __init__(
        self, settings: Settings, database: Database, storage: StorageService, uploads: UploadHandler, shares: Shares
    ) -> None:
        self._settings = settings.UPLOAD
        self._database = database
        self._storage = storage
        self._staging: Staging = storage.staging
        self._completion = Completion(database, storage.staging, uploads)
        self._shares = shares
        self._stopping = False

    def stop(self) -> None:
        """From now on nothing is begun."""
        self._stopping = True

    async def check_store(self) -> None:
        """Before a body is read: raises StorageUnavailable when the store is known to be away."""
        await self._storage.check_when_suspect()

    # -- sessions ----------------------------------------------------------------------------------------------

    async def create(self, body: UploadSessionCreate, session_id: UUID, who: Principal) -> UploadSessionResponse:
        """A new session, or the one that an earlier run of this call has left.

        Raises PayloadTooLarge, UnsupportedImageFormat, TooManyPending, StorageUnavailable.
        """
        self._check_running()
        settings = self._settings
        if body.size_bytes > settings.DIRECT_MAX_FILE_SIZE:
            raise PayloadTooLarge("The file is larger than UPLOAD__DIRECT_MAX_FILE_SIZE.")
        format_by_name(body.filename, settings.formats)
        await self.check_store()
        row = UploadSession(
            id=session_id, request_id=new_id(), camera_id=body.camera_id, filename=body.filename,
            content_type=body.content_type, size_bytes=body.size_bytes, sha256=body.sha256, meta=body.meta.to_json(),
            part_size=part_size_of(body.size_bytes, settings.PART_SIZE),
            owner=who.row_owner,
        )  # fmt: skip

        async def add(uow: UnitOfWork) -> UploadSession:
            begun = await uow.upload_sessions.begin(row, settings.SESSION_TTL)
            if await uow.upload_sessions.count_open(settings.MAX_SESSIONS + 1) > settings.MAX_SESSIONS:
                raise TooManyPending("UPLOAD__MAX_SESSIONS direct uploads are open already.", retry_after=30)
            share = self._shares.most(settings.MAX_SESSIONS)
            if row.owner is not None and await uow.upload_sessions.count_open_of(row.owner, share + 1) > share:
                raise TooManyPending("This caller's share (LIMITS__SHARE) of UPLOAD__MAX_SESSIONS is open.", retry_after=30)
            await uow.audit.write(row.id, "upload_session.open")
            return begun

        row = await self._database.retry_until_known(add)
        if row.part_size is not None and row.upload_id is None:
            await self._begin_parts(row)
        log.info("upload_session_opened", session_id=str(row.id), camera_id=row.camera_id, size_bytes=row.size_bytes)
        return await self._response(row.created_at, row, Arrived.nothing())

    async def _begin_parts(self, row: UploadSession) -> None:
        # After the row, which the sweeper goes by: a multipart upload without one would stay for ever.
        try:
            upload_id = await self._staging.begin(row.id)
        except StorageUnavailable:
            with suppress(DatabaseUnavailable):  # then it expires
                await self._database.retry_until_known(lambda uow: uow.upload_sessions.end(row.id, SessionState.ABORTED))
            raise
        await self._database.retry_until_known(lambda uow: uow.upload_sessions.set_upload_id(row.id, upload_id))
        row.upload_id = upload_id

    async def get(self, session_id: UUID, who: Principal) -> UploadSessionResponse:
        """The session, what of its file has arrived, and URLs for the rest. Raises SessionNotFound."""
        now, row = await self._found(session_id, who)
        if row.state != SessionState.OPEN.value or row.expires_at <= now:
            return await self._response(now, row, Arrived.nothing())
        return await self._response(now, row, await self._arrived(row))

    async def abort(self, session_id: UUID, who: Principal) -> None:
        """Ends the session and removes what has arrived. Repeating it is fine, and so is one that never was.

        Raises SessionBusy while it is being completed. A completed one stays so: its frame is deleted as any other.
        """
        async with self._database.unit_of_work(events=False) as uow:
            ended = await uow.upload_sessions.abort(session_id, who, COMPLETE_LEASE)
            if ended:
                await uow.audit.write(session_id, "upload_session.abort")
        if ended:
            UPLOAD_SESSIONS_ENDED.labels(status=SessionState.ABORTED.value).inc()
        async with self._database.one_statement() as uow:
            row = await uow.upload_sessions.owned(session_id, who)
        if row is None:
            return
        if row.state == SessionState.OPEN.value:
            raise SessionBusy(retry_after=1)
        if row.state == SessionState.ABORTED.value:
            await self._completion.clear(row)

    # -- completion --------------------------------------------------------------------------------------------

    async def outcome(self, session_id: UUID, who: Principal) -> Outcome:
        """Raises SessionNotFound, SessionClosed, or the refusal of a session that has failed."""
        now, row = await self._found(session_id, who)
        return self._outcome(now, row)

    async def complete(self, session_id: UUID, etags: Mapping[int, str] | None, file: LocalFile, who: Principal) -> UUID:
        """Checks and stores the file, once, however often it is asked for; the request's id.

        `etags`: what the client was answered for its parts, if it cares. Raises UploadIncomplete (the session stays
        open), SessionBusy, SessionClosed, SessionNotFound, UploadRefused or ChecksumMismatch (the session has failed),
        and everything retryable (it stays open): StorageUnavailable, DatabaseUnavailable, DiskFull, Overloaded.
        """
        self._check_running()
        row = await self._claimed(session_id, who)
        if isinstance(row, UUID):
            return row
        await self._completion.run(row, etags, file)
        return row.request_id

    async def _claimed(self, session_id: UUID, who: Principal) -> UploadSession | UUID:
        """The session, its completion ours; or the request's id, stored by somebody else meanwhile."""
        deadline = time.monotonic() + COMPLETE_WAIT
        await self._found(session_id, who)
        while True:
            async with self._database.one_statement() as uow:
                row = await uow.upload_sessions.claim(session_id, COMPLETE_LEASE)
            if row is not None:
                return row
            now, found = await self._found(session_id, who)
            if (known := self._outcome(now, found).request_id) is not None:
                return known
            if time.monotonic() > deadline:
                raise SessionBusy(retry_after=1)
            await asyncio.sleep(_POLL_INTERVAL)

    # -- helpers -----------------------------------------------------------------------------------------------

    def _check_running(self) -> None:
        if self._stopping:
            raise ShuttingDown(retry_after=5)

    async def _found(self, session_id: UUID, who: Principal) -> tuple[datetime, UploadSession]:
        async with self._database.one_statement() as uow:
            found = await uow.upload_sessions.now_and(session_id, who)
        if found is None:
            raise SessionNotFound
        return found

    def _outcome(self, now: datetime, row: UploadSession) -> Outcome:
        if row.state == SessionState.FAILED.value and row.error is not None:
            raise UploadRefused(**row.error)
        if row.state in (SessionState.ABORTED.value, SessionState.EXPIRED.value):
            raise SessionClosed
        stored = row.state == SessionState.COMPLETED.value
        if not stored and row.expires_at <= now and (row.busy_until is None or row.busy_until <= now):
            raise SessionClosed
        return Outcome(row.request_id if stored else None, row.filename, row.content_type, row.size_bytes)

    async def _arrived(self, row: UploadSession) -> Arrived:
        if row.part_size is None:
            size = await self._staging.size(row.id)
            return Arrived(whole=size == row.size_bytes, parts={})
        listed = await self._staging.parts(row.id, row.upload_id) if row.upload_id is not None else []
        if listed is None:  # joined by a completion that did not come to its end
            return Arrived(whole=await self._staging.size(row.id) == row.size_bytes, parts={})
        return Arrived(whole=False, parts=whole_parts(sizes_of(row.size_bytes, row.part_size), listed))

    async def _response(self, now: datetime, row: UploadSession, arrived: Arrived) -> UploadSessionResponse:
        urls: Mapping[int, Any] = {}
        sizes = sizes_of(row.size_bytes, row.part_size)
        if row.state == SessionState.OPEN.value and row.expires_at > now and not arrived.whole:
            wanted = [item for item in sizes if item[0] not in arrived.parts]
            if row.part_size is None or row.upload_id is not None:
                left = (row.expires_at - now).total_seconds()
                found = await self._staging.urls(row.id, wanted, row.upload_id, left)
                urls = {number: url for (number, _), url in zip(wanted, found, strict=True)}
        return to_session(row, now, sizes, arrived, urls)
