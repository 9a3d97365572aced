"""Admits requests, ends them on request, waits for them. `execution.capture_runner` runs captures.

Everything here runs on the event loop.
Longer than 250 lines: what is admitted, ended and waited for shares one set of bounds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from pydantic_core import to_json

from config import Role, Settings
from models.access import CameraGrant, Principal
from models.entities import CameraConfiguration, CaptureEvent
from models.schemas import (
    RTSPIngestionRequest,
    TriggerAccepted,
    TriggerRequest,
    UploadIngestionRequest,
)
from models.values import (
    DEFAULT_SITE,
    FINAL_STATUSES,
    BurstParams,
    Claim,
    IngestionStatus,
    NewCapture,
    ReceivedFile,
)
from repositories.database import Database, UnitOfWork
from repositories.hot_reads import RegisteredCamera
from repositories.uploads import StoredUpload
from services.access.shares import Shares
from services.admission.admitted import SUBMIT, NewCaptures
from services.admission.captures import capture_row, check_moment
from services.admission.pending import PendingCount
from services.admission.triggers import add_trigger
from services.admission.uploads import ingest_upload
from services.execution.calls import Calls
from services.execution.capture_runner import CaptureRunner
from services.execution.membership import Membership, worker_of
from services.execution.notices import BEGIN, channel_of
from services.execution.wakes import Wakes
from services.idempotency.operation import Operation
from services.reads.serializers.requests import request_json, to_response
from services.rtsp_capture.captures.context import CaptureDeps
from services.rtsp_capture.connection.camera_address import AddressPolicy, parse_rtsp_url
from services.upload_handler.handler import UploadHandler
from utils.exceptions import (
    CameraNotFound,
    Overloaded,
    RateLimited,
    RequestNotFound,
    ShuttingDown,
    TooManyPending,
)
from utils.ids import sub_id
from utils.logger import get_logger, info_line

log = get_logger(__name__)

WAIT_POLL_INTERVAL = 0.5  # seconds between polls of a request that another process runs


class Accepted(NamedTuple):
    """A capture that was stored: its id, and an IngestionResponse of this moment as JSON."""

    request_id: UUID
    body: bytes


class Orchestrator:
    """One a process. `start` begins to run captures, `stop` hands them back."""

    def __init__(
        self,
        settings: Settings,
        capture: CaptureDeps,
        leases: Database,
        uploads: UploadHandler,
        policy: AddressPolicy,
        shares: Shares,
        membership: Membership,
        wakes: Wakes,
        calls: Calls,
    ) -> None:
        """`leases`: a dedicated connection, for the renewal of leases. `shares`: what one principal may hold. `membership`:
        this process among the others. `wakes`: tells the workers of a site of a new capture. `calls`: how other processes
        are told of captures that wait or have ended."""
        self._wakes = wakes
        self._calls = calls
        self._membership = membership
        self._shares = shares
        self._settings = settings
        self._capture = capture
        self._database: Database = capture.database
        self._secrets = capture.secrets
        self._uploads = uploads
        self._policy = policy
        self.runner = CaptureRunner(capture, leases, self._ended_here, shares, membership=membership)
        self._pending = PendingCount(settings.RTSP.MAX_PENDING)
        self._new = NewCaptures(self._database, self._secrets, settings.RTSP.DEFAULT_FPS)
        self._finished: dict[UUID, asyncio.Event] = {}
        self._stopping = False

    # -- ingest ------------------------------------------------------------------------------------------------

    def check_accepting(self) -> None:
        """Raises ShuttingDown once the process has begun to stop."""
        if self._stopping:
            raise ShuttingDown(retry_after=5)

    async def submit_capture(
        self,
        body: RTSPIngestionRequest,
        who: Principal,
        operation: Operation | None = None,
        *,
        max_staleness: float = 0,
        answered: bool = True,
    ) -> Accepted:
        """Stores a pending capture; the camera is not touched.

        The id is the operation's. `answered`: its state now is the answer; else that comes later. Raises
        InvalidRequest, TimestampOutOfRange, AddressNotAllowed, CameraDisabled, TooManyPending, SecretUnreadable,
        DatabaseUnavailable, ShuttingDown, RequestInProgress when the operation's key has gone to another request; Forbidden
        for another URL of a registered camera from a caller who may not change cameras.
        """
        self.check_accepting()
        operation = operation or Operation()
        if body.rtsp_url is not None:
            self._policy.check_literal(parse_rtsp_url(body.rtsp_url))
        check_moment(body, self._settings.RTSP.RING_SECONDS)
        hot, most = self._database.hot, self._settings.RTSP.MAX_PENDING
        full = await self._pending.at_limit(hot.count_pending)
        share, owned = self._shares.most(most), 0
        if self._shares.limited and who.row_owner is not None:
            owned = await hot.count_pending_of(who.owner, share)
        if full:
            raise TooManyPending(retry_after=10)
        if owned >= share:
            raise TooManyPending("This caller's share (LIMITS__SHARE) of RTSP__MAX_PENDING is waiting.", retry_after=10)
        if operation.keyed:
            camera = await self._new.camera(body.camera_id)
            row = self._new.row_of(body, who, operation, camera, max_staleness)
            accepted = await self._database.retry_until_known(lambda uow: self._add(uow, row, camera, operation, answered))
            site = DEFAULT_SITE if camera is None else camera.row.site
        else:
            stored, site = await self._new.add(body, who, operation, max_staleness)
            accepted = Accepted(stored.id, to_json({**request_json(stored, [], self._secrets), "frames": []}))
        self._pending.added()
        told = {"ingestion_id": str(accepted.request_id), "camera_id": body.camera_id, "mode": body.capture_mode.value}
        info_line(__name__, "capture_accepted", told)
        if self.runner.room:  # else it waits for one that ends, which wakes it
            self.runner.wake()
        self._wakes.post(accepted.request_id, site)
        self._calls.capture_waits(site)
        return accepted

    async def submit_burst(
        self, operation: Operation, captures: Sequence[tuple[RTSPIngestionRequest, CameraConfiguration]],
        tolerance_ms: float, who: Principal, others: Mapping[str, str] | None = None,
    ) -> list[UUID]:  # fmt: skip
        """Stores single_frame captures of one moment in one transaction and runs them here, where their streams are.

        `others`: by camera, the owner of leases in another process that has its stream; the commit tells it to begin.

        The group's id is the operation's, the requests' ids follow from it: of a burst that is there already, only those
        ids are returned. Their leases are this process's from the start. Raises CameraDisabled,
        CameraNotFound, Overloaded beyond RTSP__MAX_CONCURRENT_CAPTURES, RateLimited beyond the caller's share of them,
        SecretUnreadable, DatabaseUnavailable, ShuttingDown, RequestInProgress when the operation's key has gone to another
        request.
        """
        group_id = operation.request_id
        self.check_accepting()
        others = others or {}
        here = sum(1 for _, camera in captures if camera.camera_id not in others)
        if here > self.runner.room:
            raise Overloaded("RTSP__MAX_CONCURRENT_CAPTURES are running. Try again.", retry_after=5)
        if not self.runner.may_run(who.row_owner, here):
            raise RateLimited("This caller's share (LIMITS__SHARE) of the captures is running already.", retry_after=5)
        rows = []
        for index, (body, camera) in enumerate(captures):
            row = capture_row(body, camera, self._secrets, default_fps=self._settings.RTSP.DEFAULT_FPS)
            row.id, row.group_id, row.owner = sub_id(group_id, index), group_id, who.row_owner
            row.params = {**(row.params or {}), "burst": BurstParams(index, tolerance_ms).to_json()}
            rows.append(row)

        async def add(uow: UnitOfWork) -> set[UUID]:
            if not await uow.cameras.hold_all([row.camera_id for row in rows]):
                raise CameraNotFound
            held = await uow.requests.add_group(rows, self.runner.owner, self._settings.RTSP.LEASE_TTL, others)
            await uow.audit.write(group_id, "burst.take")
            await operation.begin(uow)
            for owner in set(others.values()):
                await uow.workers.notify(channel_of(worker_of(owner)), f"{BEGIN} {group_id}")
            return held

        asked = self.runner.now()
        held = await self._database.retry_until_known(add)
        log.info("burst_accepted", group_id=str(group_id), cameras=len(rows))
        for row in rows:
            if row.id in held and self.runner.job(row.id) is None:
                self.runner.begin(Claim(row.id, 1, resumed=False), row.camera_id, row.owner, asked)
        return [row.id for row in rows]

    async def _add(
        self,
        uow: UnitOfWork,
        row: NewCapture,
        camera: RegisteredCamera | None,
        operation: Operation,
        answered: bool,
    ) -> Accepted:
        # Held until the commit: a camera cannot be deleted between here and its capture being there to be seen.
        if camera is not None and not await uow.cameras.hold(camera.row.camera_id):
            raise CameraNotFound
        shown = to_response(await uow.requests.add_capture(row), [], [], self._secrets)
        await uow.audit.write(row.id, SUBMIT)
        if answered:
            await operation.keep(uow, shown)
        else:
            await operation.begin(uow)
        return Accepted(row.id, shown.model_dump_json(by_alias=True).encode())

    async def ingest_upload(
        self, form: UploadIngestionRequest, files: Sequence[ReceivedFile], operation: Operation | None = None
    ) -> StoredUpload | None:
        """Stores an upload under the operation's id; its rows as committed, without a key.

        Raises ShuttingDown, and what `admission.uploads` names.
        """
        self.check_accepting()
        operation = operation or Operation()
        return await ingest_upload(
            form, files, operation, database=self._database, uploads=self._uploads, secrets=self._secrets
        )

    # -- requests ----------------------------------------------------------------------------------------------

    async def cancel(self, request_id: UUID, cameras: CameraGrant) -> bool:
        """Asks for a capture's end; True when it was final already.

        Raises RequestNotFound, also when its camera is not of `cameras`; DatabaseUnavailable.
        """

        async def ask(uow: UnitOfWork) -> IngestionStatus | None:
            before = await uow.captures.request_cancel(request_id, cameras)
            if before is not None and before not in FINAL_STATUSES:
                await uow.audit.write(request_id, "capture.cancel")
            return before

        before = await self._database.retry_until_known(ask)
        if before is None:
            raise RequestNotFound
        if (job := self.runner.job(request_id)) is not None:
            job.cancel()
        if before is IngestionStatus.PENDING:
            self._ended_here(request_id)
        return before in FINAL_STATUSES

    async def wait_final(self, request_id: UUID, seconds: float) -> bool:
        """Whether the request reaches a final state within `seconds`; ends early when the process stops."""
        deadline = time.monotonic() + seconds
        event = self._finished.setdefault(request_id, asyncio.Event())
        try:
            while True:
                async with self._database.reading() as uow:
                    if await uow.requests.is_final(request_id):
                        return True
                left = deadline - time.monotonic()
                if left <= 0 or self._stopping:
                    return False
                try:
                    async with asyncio.timeout(min(left, WAIT_POLL_INTERVAL)):
                        await event.wait()
                        event.clear()
                except TimeoutError:
                    pass
        finally:
            if self._finished.get(request_id) is event:
                del self._finished[request_id]

    def _ended_here(self, request_id: UUID) -> None:
        self.note_finished(request_id)
        self._calls.ended(request_id)
        if self._stopping or self._membership.draining:
            self._calls.handed_over()

    def note_finished(self, request_id: UUID) -> None:
        """The request may be final: who waits for it looks again."""
        if (event := self._finished.get(request_id)) is not None:
            event.set()

    async def trigger(
        self, request_id: UUID, body: TriggerRequest, cameras: CameraGrant, operation: Operation | None = None
    ) -> UUID:
        """An event for a running event_driven capture, whichever process runs it; returns the event's id, the operation's.

        Raises RequestNotFound, NotRunning, TimestampOutOfRange, DatabaseUnavailable, ShuttingDown, RequestInProgress
        when the operation's key has gone to another request.
        """
        self.check_accepting()
        operation = operation or Operation()
        event_id, at = operation.request_id, body.at or datetime.now(UTC)

        async def add(uow: UnitOfWork) -> CaptureEvent:
            if await uow.requests.visible(request_id, cameras) is None:
                raise RequestNotFound
            row = await add_trigger(uow, event_id, request_id, body.label, at, self._settings.RTSP.RING_SECONDS)
            await uow.audit.write(request_id, "capture.trigger")
            await operation.keep(uow, TriggerAccepted(event_id=event_id))
            return row

        row = await self._database.retry_until_known(add)
        log.info("triggered", ingestion_id=str(request_id), event_id=str(event_id))
        if (job := self.runner.job(request_id)) is not None:
            job.trigger(row)
        return event_id

    # -- start and stop ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to run captures; with ROLE=api only those that are begun here."""
        self.runner.start(claims=self._settings.ROLE is not Role.API)

    async def stop(self, timeout: float) -> None:
        """Takes no more work, stores pending frames, hands captures back; at most `timeout` seconds."""
        self._stopping = True
        for event in self._finished.values():
            event.set()
        await self.runner.stop(timeout)
