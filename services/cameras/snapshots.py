"""One picture of a registered camera, now.

Of an open stream it is taken at once and committed together with its request, in one transaction, as an upload is.
Whatever stands in the way (no open stream, a damaged picture, the store away) is left to an ordinary single_frame
request, which waits, tries again and says why it failed. On the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from models.access import Principal
from models.entities import CameraConfiguration, Frame, IngestionRequest
from models.schemas import FrameInfo, RTSPIngestionRequest, SnapshotRequest
from models.values import FINAL_STATUSES, CaptureMode, CaptureParams, FrameRecord, IngestionStatus
from repositories.database import UnitOfWork
from services.admission.captures import capture_row
from services.idempotency.operation import Operation
from services.orchestrator import Orchestrator
from services.reads.queries import Queries
from services.reads.serializers.frames import to_frame_info
from services.rtsp_capture.captures.context import CaptureDeps
from services.rtsp_capture.frames.frame_record import CaptureFacts, frame_record
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.streams.keep_open import key_of
from services.rtsp_capture.streams.live_decoder import FOLLOW_SECONDS
from services.rtsp_capture.streams.stream import Stream
from services.storage_service.commit_with_reupload import commit_with_reupload
from services.storage_service.keys import with_fresh_key
from utils.exceptions import (
    CameraFailed,
    CameraNotFound,
    CaptureFailure,
    FrameNotFound,
    Overloaded,
    StorageUnavailable,
)
from utils.logger import get_logger
from utils.metrics import CAPTURE_TO_STORED, CAPTURES_FINISHED, FRAMES

log = get_logger(__name__)

MARGIN = 15.0  # seconds beyond RTSP__CAPTURE_TIMEOUT that a snapshot may take: waiting for room, and storing it
AT_ONCE = 16  # taken from open streams at the same time; more become requests


class Snapshots:
    """Raises CameraNotFound, CameraDisabled, SecretUnreadable, DatabaseUnavailable, ShuttingDown beside what it names."""

    def __init__(self, capture: CaptureDeps, orchestrator: Orchestrator, queries: Queries) -> None:
        self._capture = capture
        self._orchestrator = orchestrator
        self._queries = queries
        self._wait = capture.settings.CAPTURE_TIMEOUT + MARGIN
        self._busy = 0

    async def take(
        self, camera_id: str, body: SnapshotRequest, who: Principal, operation: Operation | None = None
    ) -> FrameInfo:
        """The stored frame, of the request with the operation's id. Raises CameraFailed with the capture's code,
        TooManyPending, Overloaded, RequestInProgress when the operation's key has gone to another request."""
        operation = operation or Operation()
        self._orchestrator.check_accepting()
        async with self._capture.database.one_statement() as uow:
            camera = await uow.cameras.get(camera_id)
        if camera is None:
            raise CameraNotFound
        wanted = RTSPIngestionRequest(
            camera_id=camera_id, capture_mode=CaptureMode.SINGLE_FRAME, jpeg_quality=body.jpeg_quality, meta=body.meta
        )
        row = capture_row(
            wanted, camera, self._capture.secrets,
            default_fps=self._capture.settings.DEFAULT_FPS, max_staleness=body.max_staleness,
        )  # fmt: skip
        row.id, row.owner = operation.request_id, who.row_owner
        if (frame := await self._at_once(row, camera, operation)) is not None:
            return await self._queries.info(frame)
        return await self._by_request(wanted, body.max_staleness, who, operation)

    # -- from the open stream ----------------------------------------------------------------------------------

    async def _at_once(self, row: IngestionRequest, camera: CameraConfiguration, operation: Operation) -> Frame | None:
        """The frame, stored; None when it takes a request of its own, or an earlier run of the key has made one."""
        key, hub = key_of(camera, self._capture.secrets), self._capture.hub
        stream = hub.find(key)
        if stream is None or not stream.live or self._busy >= AT_ONCE:
            return None
        params = CaptureParams.from_json(row.params or {})
        stream.catch_up(FOLLOW_SECONDS)
        picture = stream.newest(self._capture.now(), params.max_staleness)
        if picture is None:
            return None
        self._busy += 1
        await hub.acquire(key, row.owner)  # open already: only keeps it from closing
        try:
            return await self._store(row, params, stream, picture, operation)
        except (CaptureFailure, StorageUnavailable):
            return None
        finally:
            hub.release(key, row.owner)
            self._busy -= 1

    async def _store(
        self, row: IngestionRequest, params: CaptureParams, stream: Stream, picture: Picture, operation: Operation
    ) -> Frame | None:
        jpeg = await stream.decoder.snapshot(picture, params.jpeg_quality)
        packet = picture.packet
        facts = CaptureFacts(row.id, row.camera_id, params.jpeg_quality, row.meta)
        record = frame_record(facts, 0, packet.timestamp, packet.timestamp, packet, jpeg)
        await self._capture.storage.put(record.storage_path, jpeg.data, record.content_type, record.sha256)
        source = stream.source_info(jpeg)
        row.source = source.to_json() if source is not None else None
        row.grid_start = record.timestamp

        async def commit(records: Sequence[FrameRecord]) -> Frame | None:
            return await self._capture.database.retry_until_known(lambda uow: _commit(uow, row, records[0], operation))

        async def put_again(taken: FrameRecord) -> FrameRecord:
            again = with_fresh_key(taken)
            await self._capture.storage.put(again.storage_path, jpeg.data, again.content_type, again.sha256)
            return again

        frame = await commit_with_reupload([record], commit, put_again)
        if frame is None:
            return None
        FRAMES.labels(source="rtsp", outcome="stored").inc()
        CAPTURES_FINISHED.labels(status=IngestionStatus.COMPLETED.value).inc()
        CAPTURE_TO_STORED.observe(max(0.0, self._capture.now() - packet.timestamp))
        log.info("snapshot_taken", ingestion_id=str(row.id), camera_id=row.camera_id, age_s=_age(record))
        return frame

    # -- by a request ------------------------------------------------------------------------------------------

    async def _by_request(
        self, wanted: RTSPIngestionRequest, max_staleness: float, who: Principal, operation: Operation
    ) -> FrameInfo:
        accepted = await self._orchestrator.submit_capture(
            wanted, who, operation, max_staleness=max_staleness, answered=False
        )
        try:
            final = await self._orchestrator.wait_final(accepted.request_id, self._wait)
        except asyncio.CancelledError:  # the client is gone; nobody waits for the picture
            await asyncio.shield(self._orchestrator.cancel(accepted.request_id, who.cameras))
            raise
        if not final:
            await self._orchestrator.cancel(accepted.request_id, who.cameras)
            self._orchestrator.check_accepting()
            ended = await self._queries.get_request(accepted.request_id, who)
            operation.settled = ended.status in FINAL_STATUSES and not ended.frames
            raise Overloaded("The snapshot had no turn in time: too many captures or streams. Try again.", retry_after=5)
        answer = await self._queries.get_request(accepted.request_id, who)
        if answer.frames:
            return answer.frames[0]
        if answer.status is IngestionStatus.COMPLETED:
            raise FrameNotFound("The frame was deleted meanwhile.")
        operation.settled = True  # it has ended, and gave nothing
        error = answer.error
        if error is None:
            raise CameraFailed("stream_ended", "The snapshot was cancelled.", retryable=True)
        raise CameraFailed(error.code, error.message, retryable=error.retryable)  # type: ignore[arg-type]


async def _commit(uow: UnitOfWork, row: IngestionRequest, record: FrameRecord, operation: Operation) -> Frame | None:
    """The frame; None when there is a request with this id that did not come from this call."""
    added = await uow.requests.add_snapshot(row, record)
    frame = await uow.frames.get(record.frame_id)
    if frame is None:
        if not added:
            return None
        raise StorageUnavailable("The frame's object key is taken.")
    await uow.audit.write(row.id, "snapshot.take")
    await operation.keep(uow, to_frame_info(frame, None))
    return frame


def _age(record: FrameRecord) -> float:
    return round((datetime.now(UTC) - record.timestamp).total_seconds(), 3)
