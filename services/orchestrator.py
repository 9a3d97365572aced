"""Admits requests, ends them on request, waits for them; drives uploads. What runs is `capture_runner`'s.

Everything here runs on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from config import Settings
from models.access import ALL_CAMERAS, ANONYMOUS, CameraGrant, Principal, Scope
from models.entities import CameraConfiguration, CaptureEvent, IngestionRequest
from models.schemas import (
    IngestionResponse,
    RTSPIngestionRequest,
    TriggerAccepted,
    TriggerRequest,
    UploadIngestionRequest,
)
from models.values import (
    FINAL_STATUSES,
    BurstParams,
    CaptureMode,
    CaptureParams,
    Claim,
    FrameRecord,
    IngestionStatus,
    MotionParams,
    ReceivedFile,
    SourceType,
    Transport,
)
from repositories.database import Database, UnitOfWork
from services.access.limits import Shares
from services.execution.runner import CaptureRunner
from services.idempotency.operation import Operation
from services.reads.queries import read_request
from services.reads.serializers.frames import NO_URL, to_frame_info
from services.reads.serializers.requests import to_response
from services.rtsp_capture.captures.context import CaptureDeps
from services.rtsp_capture.connection.address import AddressPolicy, parse_rtsp_url
from services.storage_service.commit_with_reupload import commit_with_reupload
from services.upload_handler.handler import UploadHandler
from utils.exceptions import (
    CameraDisabled,
    CameraNotFound,
    Forbidden,
    IngestionException,
    InvalidImage,
    InvalidRequest,
    NotRunning,
    Overloaded,
    RequestNotFound,
    ShuttingDown,
    TimestampOutOfRange,
    TooManyPending,
)
from utils.ids import new_id, sub_id
from utils.logger import get_logger
from utils.metrics import FRAMES, REJECTED

log = get_logger(__name__)

WAIT_POLL = 0.5  # seconds between looks at a request that another process runs
FUTURE_LIMIT = timedelta(hours=24)
TRIGGER_AHEAD = timedelta(seconds=10)  # by which a trigger's `at` may be ahead: clients' clocks


def _event_params(body: RTSPIngestionRequest) -> dict[str, Any]:
    """What an event_driven request says of its events; what it does not say has its default."""
    found: dict[str, Any] = {"motion": MotionParams(**body.motion.model_dump(exclude_none=True))} if body.motion else {}
    rolls = {"pre_roll": body.pre_roll, "post_roll": body.post_roll}
    return found | {name: float(value) for name, value in rolls.items() if value is not None}


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
    ) -> None:
        """`leases`: a dedicated connection, for the renewal of leases. `shares`: what one principal may hold."""
        self._shares = shares
        self._settings = settings
        self._capture = capture
        self._database: Database = capture.database
        self._secrets = capture.secrets
        self._uploads = uploads
        self._policy = policy
        self.runner = CaptureRunner(capture, leases, self._tell_finished)
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
    ) -> IngestionResponse:
        """Stores a pending capture and returns it; the camera is not touched.

        The id is the operation's. `answered`: what is returned is the answer; else that comes later. Raises
        InvalidRequest, TimestampOutOfRange, AddressNotAllowed, CameraDisabled, TooManyPending, SecretUnreadable,
        DatabaseUnavailable, ShuttingDown, RequestInProgress when the operation's key has gone to another request; Forbidden
        for a URL of a registered camera's caller who may not change cameras.
        """
        self.check_accepting()
        operation = operation or Operation()
        if body.rtsp_url is not None:
            self._policy.check_literal(parse_rtsp_url(body.rtsp_url))
        self._check_moment(body)
        async with self._database.unit_of_work() as uow:
            camera = await uow.cameras.get(body.camera_id)
            pending = await uow.requests.count_pending(self._settings.RTSP.MAX_PENDING)
            share = self._shares.most(self._settings.RTSP.MAX_PENDING)
            owned = 0 if who is ANONYMOUS else await uow.requests.count_pending_of(who.owner, share)
        if pending >= self._settings.RTSP.MAX_PENDING:
            raise TooManyPending(retry_after=10)
        if owned >= share:
            raise TooManyPending("This caller's share (LIMITS__SHARE) of RTSP__MAX_PENDING is waiting.", retry_after=10)
        row = self.capture_row(self._with_known_url(body, camera, who), camera, max_staleness)
        row.id, row.owner = operation.request_id, None if who is ANONYMOUS else who.owner
        stored = await self._database.retry_until_known(lambda uow: self._add(uow, row, camera, operation, answered))
        log.info("capture_accepted", ingestion_id=str(row.id), camera_id=row.camera_id, mode=row.capture_mode)
        self.runner.wake()
        return to_response(stored, [], [], self._secrets)

    async def submit_burst(
        self, operation: Operation, captures: Sequence[tuple[RTSPIngestionRequest, CameraConfiguration]], tolerance_ms: float
    ) -> list[UUID]:
        """Stores single_frame captures of one moment in one transaction and runs them here, where their streams are.

        The group's id is the operation's, the requests' ids follow from it: of a burst that is there already, only those
        ids are returned. They wait for no turn: their leases are this process's from the start. Raises CameraDisabled,
        CameraNotFound, Overloaded beyond RTSP__MAX_CONCURRENT_CAPTURES, SecretUnreadable, DatabaseUnavailable,
        ShuttingDown, RequestInProgress when the operation's key has gone to another request.
        """
        group_id = operation.request_id
        self.check_accepting()
        if len(captures) > self.runner.room:
            raise Overloaded("RTSP__MAX_CONCURRENT_CAPTURES are running. Try again.", retry_after=5)
        rows = []
        for index, (body, camera) in enumerate(captures):
            row = self.capture_row(body, camera, 0)
            row.id, row.group_id = sub_id(group_id, index), group_id
            row.params = {**(row.params or {}), "burst": BurstParams(index, tolerance_ms).to_json()}
            rows.append(row)

        async def add(uow: UnitOfWork) -> set[UUID]:
            if not await uow.cameras.hold_all([row.camera_id for row in rows]):
                raise CameraNotFound
            held = await uow.requests.add_group(rows, self.runner.owner, self._settings.RTSP.LEASE_TTL)
            await uow.audit.write(group_id, "burst.take")
            await operation.begin(uow)
            return held

        asked = self.runner.now()
        held = await self._database.retry_until_known(add)
        log.info("burst_accepted", group_id=str(group_id), cameras=len(rows))
        for row in rows:
            if row.id in held and self.runner.job(row.id) is None:
                self.runner.begin(Claim(row.id, 1, resumed=False), row.camera_id, asked)
        return [row.id for row in rows]

    async def _add(
        self,
        uow: UnitOfWork,
        row: IngestionRequest,
        camera: CameraConfiguration | None,
        operation: Operation,
        answered: bool,
    ) -> IngestionRequest:
        # Held until the commit: a camera cannot be deleted between here and its capture being there to be seen.
        if camera is not None and not await uow.cameras.hold(camera.camera_id):
            raise CameraNotFound
        stored = await uow.requests.add_capture(row)
        await uow.audit.write(row.id, "capture.submit")
        if answered:
            await operation.keep(uow, to_response(stored, [], [], self._secrets))
        else:
            await operation.begin(uow)
        return stored

    def _with_known_url(
        self, body: RTSPIngestionRequest, camera: CameraConfiguration | None, who: Principal
    ) -> RTSPIngestionRequest:
        """The body; a registered camera's masked URL stands for its own, any other is for those who may change it."""
        if camera is None or body.rtsp_url is None:
            return body
        if body.rtsp_url == self._secrets.masked(camera.rtsp_url):
            return body.model_copy(update={"rtsp_url": None})
        if not who.has(Scope.CAMERAS_WRITE):
            raise Forbidden("Another URL for a registered camera needs cameras:write.", details={"scope": "cameras:write"})
        return body

    def _check_moment(self, body: RTSPIngestionRequest) -> None:
        if body.frame_timestamp is None:
            return
        ahead = body.frame_timestamp - datetime.now(UTC)
        if ahead > FUTURE_LIMIT or -ahead > timedelta(seconds=self._settings.RTSP.RING_SECONDS):
            raise TimestampOutOfRange.of(
                "frame_timestamp",
                "lies more than RTSP__RING_SECONDS ago or more than 24 h ahead",
                code="timestamp_out_of_range",
            )

    def capture_row(
        self, body: RTSPIngestionRequest, camera: CameraConfiguration | None, max_staleness: float
    ) -> IngestionRequest:
        """The row of a new, pending capture. Raises CameraDisabled, InvalidRequest, SecretUnreadable."""
        if camera is not None and not camera.enabled:
            raise CameraDisabled
        url = body.rtsp_url or (self._secrets.open(camera.rtsp_url) if camera else None)
        if url is None:
            raise InvalidRequest.of("rtsp_url", "is required: this camera is not registered", code="missing")
        default_fps = (camera.default_fps if camera else None) or self._settings.RTSP.DEFAULT_FPS
        single = body.capture_mode is CaptureMode.SINGLE_FRAME
        params = CaptureParams(
            mode=body.capture_mode,
            fps=1.0 if single else (body.fps or default_fps),
            duration=None if single else body.capture_duration,
            sampling=body.sampling,
            max_frames=None if single else body.max_frames,
            jpeg_quality=body.jpeg_quality,
            transport=body.transport or (Transport(camera.transport) if camera else Transport.TCP),
            frame_timestamp=body.frame_timestamp,
            max_staleness=max_staleness,
            reader=camera.reader if camera else None,
            **_event_params(body),
        )
        return IngestionRequest(
            id=new_id(), camera_id=body.camera_id, source_type=SourceType.RTSP.value, capture_mode=body.capture_mode.value,
            status=IngestionStatus.PENDING.value, rtsp_url=self._secrets.seal(url), params=params.to_json(),
            meta=body.meta.to_json(),
        )  # fmt: skip

    async def ingest_upload(
        self, form: UploadIngestionRequest, files: Sequence[ReceivedFile], operation: Operation | None = None
    ) -> UUID:
        """Checks and stores the files, then commits them as one finished request; returns its id, the operation's.

        Raises the first 5xx, else the first file's error, with all of `rejected` in its details, when none was
        stored; DatabaseUnavailable when the rows could not be committed; RequestInProgress when the operation's key has
        gone to another request.
        """
        self.check_accepting()
        operation = operation or Operation()
        request_id = operation.request_id
        result = await self._uploads.process(request_id, form, files, datetime.now(UTC))
        rejected = [item.to_json() for item in result.rejected]
        for item in result.rejected:
            REJECTED.labels(code=item.code).inc()
            FRAMES.labels(source="upload", outcome="rejected").inc()
        if not result.records:
            error: IngestionException = result.first_error or InvalidImage()
            error.details["rejected"] = rejected
            raise error
        row = IngestionRequest(
            id=request_id,
            camera_id=form.camera_id,
            source_type=SourceType.UPLOAD.value,
            meta=form.meta.to_json(),
            rejected=rejected,
        )
        indexes = [item.index for item in result.rejected]

        async def commit(records: Sequence[FrameRecord]) -> None:
            async def add(uow: UnitOfWork) -> None:
                await uow.requests.add_upload(row, records, indexes)
                await uow.audit.write(request_id, "upload.store")
                if operation.keyed:
                    await operation.keep(uow, await self._whole(uow, request_id))

            await self._database.retry_until_known(add)

        by_index = {file.index: file for file in files}
        await commit_with_reupload(
            result.records, commit, lambda item: self._uploads.put_again(item, by_index[item.sequence])
        )
        FRAMES.labels(source="upload", outcome="stored").inc(len(result.records))
        log.info(
            "upload_stored",
            ingestion_id=str(request_id),
            camera_id=form.camera_id,
            stored=len(result.records),
            rejected=len(rejected),
        )
        return request_id

    async def _whole(self, uow: UnitOfWork, request_id: UUID) -> IngestionResponse:
        """The request as this transaction has it, its frames without URLs."""
        row, gaps, frames = await read_request(uow, request_id, ALL_CAMERAS)
        return to_response(row, gaps, [to_frame_info(frame, NO_URL) for frame in frames], self._secrets)

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
            self._tell_finished(request_id)
        return before in FINAL_STATUSES

    async def wait_final(self, request_id: UUID, seconds: float) -> bool:
        """Whether the request reaches a final state within `seconds`; ends early when the process stops."""
        deadline = time.monotonic() + seconds
        event = self._finished.setdefault(request_id, asyncio.Event())
        try:
            while True:
                async with self._database.unit_of_work() as uow:
                    if await uow.requests.is_final(request_id):
                        return True
                left = deadline - time.monotonic()
                if left <= 0 or self._stopping:
                    return False
                try:
                    async with asyncio.timeout(min(left, WAIT_POLL)):
                        await event.wait()
                        event.clear()
                except TimeoutError:
                    pass
        finally:
            if self._finished.get(request_id) is event:
                del self._finished[request_id]

    def _tell_finished(self, request_id: UUID) -> None:
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
            row = await self._add_trigger(uow, event_id, request_id, body.label, at)
            await uow.audit.write(request_id, "capture.trigger")
            await operation.keep(uow, TriggerAccepted(event_id=event_id))
            return row

        row = await self._database.retry_until_known(add)
        log.info("triggered", ingestion_id=str(request_id), event_id=str(event_id))
        if (job := self.runner.job(request_id)) is not None:
            job.trigger(row)
        return event_id

    async def _add_trigger(
        self, uow: UnitOfWork, event_id: UUID, request_id: UUID, label: str | None, at: datetime
    ) -> CaptureEvent:
        if (known := await uow.events.get(event_id)) is not None:
            return known  # this very call, or an earlier run of its key, whose COMMIT was not known to have succeeded
        row = await uow.captures.lock(request_id, ALL_CAMERAS)
        if row is None:
            raise RequestNotFound
        running = row.status == IngestionStatus.IN_PROGRESS.value and row.cancel_requested_at is None
        if not running or row.capture_mode != CaptureMode.EVENT_DRIVEN.value or row.params is None:
            raise NotRunning
        now, ring = datetime.now(UTC), timedelta(seconds=self._settings.RTSP.RING_SECONDS)
        post_roll = timedelta(seconds=CaptureParams.from_json(row.params).post_roll)
        oldest = max(now - ring, (row.grid_start or row.created_at) - post_roll)
        if not oldest <= at <= now + TRIGGER_AHEAD:
            raise TimestampOutOfRange.of(
                "at",
                "lies more than RTSP__RING_SECONDS ago, before the capture's first picture, or more than 10 s ahead",
                code="timestamp_out_of_range",
            )
        return await uow.events.add_trigger(event_id, request_id, label, at)

    # -- start and stop ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to run captures."""
        self.runner.start()

    async def stop(self, timeout: float) -> None:
        """Takes no more work, stores what is in hand, hands captures back; at most `timeout` seconds."""
        self._stopping = True
        for event in self._finished.values():
            event.set()
        await self.runner.stop(timeout)
