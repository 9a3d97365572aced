"""One picture of a registered camera, now.

Of an open stream it is taken at once and committed together with its request, in one transaction, as an upload is.
Whatever stands in the way (no open stream, a damaged picture, the store away) is left to an ordinary single_frame
request, which waits, tries again and says why it failed. On the event loop.

Longer than 250 lines: the quick way and the ordinary one share what was taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from models.access import Principal
from models.entities import CameraConfiguration, Frame, IngestionRequest
from models.schemas import FrameInfo, RTSPIngestionRequest, SnapshotRequest
from models.values import FINAL_STATUSES, CaptureMode, CaptureParams, Encoding, FrameRecord, IngestionStatus, PickParams
from repositories.database import UnitOfWork
from services.admission.captures import capture_row
from services.cameras.places import CameraPlaces, key_json
from services.execution.calls import CallAnswer
from services.idempotency.operation import Operation
from services.orchestrator import Orchestrator
from services.reads.queries import Queries
from services.reads.serializers.frames import to_frame_info
from services.rtsp_capture.captures.context import CaptureDeps
from services.rtsp_capture.frames.encodings import encoding_named, encoding_of
from services.rtsp_capture.frames.frame_record import CaptureFacts, frame_record, quality_of
from services.rtsp_capture.frames.picking import of_newest
from services.rtsp_capture.media.packets import PictureFile
from services.rtsp_capture.streams.keep_open import key_of
from services.rtsp_capture.streams.live_decoder import FOLLOW_SECONDS
from services.rtsp_capture.streams.stream import StreamKey
from services.storage_service.commit_with_reupload import commit_with_reupload
from services.storage_service.keys import with_fresh_key
from utils.camera_series import camera_series
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


PICTURE_SECONDS = 15.0  # that another process may take for a picture of its open stream
_RECORD = TypeAdapter(FrameRecord)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A picture whose object is stored; `file`: where its bytes are here."""

    record: FrameRecord
    file: PictureFile | None
    source: dict[str, Any] | None


class Snapshots:
    """Raises CameraNotFound, CameraDisabled, SecretUnreadable, DatabaseUnavailable, ShuttingDown beside what it names."""

    def __init__(self, capture: CaptureDeps, orchestrator: Orchestrator, queries: Queries, places: CameraPlaces) -> None:
        self._places = places
        self._capture = capture
        self._orchestrator = orchestrator
        self._queries = queries
        self._wait = capture.settings.CAPTURE_TIMEOUT + MARGIN
        self._busy = 0

    async def take(
        self, camera_id: str, body: SnapshotRequest, who: Principal, operation: Operation | None = None
    ) -> FrameInfo:
        """The stored frame, of the request with the operation's id. Raises CameraFailed with the capture's code,
        TooManyPending, Overloaded, NoWorker, RequestInProgress when the operation's key has gone to another request."""
        operation = operation or Operation()
        self._orchestrator.check_accepting()
        async with self._capture.database.one_statement() as uow:
            camera = await uow.cameras.get(camera_id)
        if camera is None:
            raise CameraNotFound
        asked = body.model_dump(include={"jpeg_quality", "encoding", "pick"}, exclude_unset=True)
        wanted = RTSPIngestionRequest(camera_id=camera_id, capture_mode=CaptureMode.SINGLE_FRAME, meta=body.meta, **asked)
        row = capture_row(
            wanted, camera, self._capture.secrets,
            default_fps=self._capture.settings.DEFAULT_FPS, max_staleness=body.max_staleness,
        )  # fmt: skip
        row.id, row.owner = operation.request_id, who.row_owner
        if await self._places.elsewhere([camera]):
            frame = await self._from_elsewhere(row, camera, operation)
        else:
            frame = await self._at_once(row, camera, operation)
        if frame is not None:
            return await self._queries.info(frame)
        return await self._by_request(wanted, body.max_staleness, who, operation)

    # -- from the open stream ----------------------------------------------------------------------------------

    async def _at_once(self, row: IngestionRequest, camera: CameraConfiguration, operation: Operation) -> Frame | None:
        """The frame, stored; None when it takes a request of its own, or an earlier run of the key has made one."""
        params = CaptureParams.from_json(row.params or {})
        facts = CaptureFacts(row.id, row.camera_id, encoding_of(params), row.meta)
        key = key_of(camera, self._capture.secrets)
        taken = await self._take(key, facts, params.max_staleness, row.owner, params.pick)
        return await self._store(row, taken, operation) if taken is not None else None

    async def _from_elsewhere(
        self, row: IngestionRequest, camera: CameraConfiguration, operation: Operation
    ) -> Frame | None:
        """The same by the process that has the stream: it stores the picture, the row is written here."""
        params = CaptureParams.from_json(row.params or {})
        asked = {
            "key": key_json(key_of(camera, self._capture.secrets)), "request_id": str(row.id), "owner": row.owner,
            "encoding": params.encoding.value, "quality": params.jpeg_quality,
            "staleness": params.max_staleness, "meta": row.meta,
            "pick": params.pick.to_json() if params.pick is not None else None,
        }  # fmt: skip
        answer = await self._places.ask("picture", asked, site=camera.site, camera_id=row.camera_id, seconds=PICTURE_SECONDS)
        if answer.body is None:
            return None
        taken = _Taken(_RECORD.validate_python(answer.body["record"]), None, answer.body["source"])
        return await self._store(row, taken, operation)

    async def picture_for_another(self, asked: Any) -> CallAnswer:
        """What another process asks by `picture`."""
        encoding = encoding_named(Encoding(asked.get("encoding", "jpeg")), asked["quality"])
        facts = CaptureFacts(UUID(asked["request_id"]), asked["key"][0], encoding, asked["meta"])
        pick = PickParams(**asked["pick"]) if asked.get("pick") else None
        taken = await self._take(StreamKey(*asked["key"]), facts, asked["staleness"], asked["owner"], pick)
        if taken is None:
            return CallAnswer()
        return CallAnswer({"record": _RECORD.dump_python(taken.record, mode="json"), "source": taken.source})

    async def _take(
        self, key: StreamKey, facts: CaptureFacts, staleness: float, owner: str | None, pick: PickParams | None
    ) -> _Taken | None:
        """The newest picture of the open stream, or the sharpest of the newest ones, its object stored; None when there is
        no such stream or picture."""
        hub = self._capture.hub
        stream = hub.find(key)
        if stream is None or not stream.live:
            return None
        await stream.catch_up(FOLLOW_SECONDS)
        if self._busy >= AT_ONCE or hub.find(key) is not stream:  # it was closed meanwhile
            return None
        picture = stream.newest(self._capture.now(), staleness, keyframe=facts.encoding.keyframes_only)
        if picture is None:
            return None
        self._busy += 1
        await hub.acquire(key, owner)  # open already: only keeps it from closing
        try:
            if pick is not None:
                ring, keyframes = stream.ring.pictures(), facts.encoding.keyframes_only
                picture = await of_newest(picture, ring, pick, stream.decoder, keyframes=keyframes)
            file = await facts.encoding.make(stream.decoder, picture, at_once=pick is None)
            packet = picture.packet
            quality = await quality_of(self._capture.quality, facts, file, packet.timestamp)
            record = frame_record(facts, 0, packet.timestamp, packet.timestamp, packet, file, quality)
            await self._capture.storage.put(record.storage_path, file.data, record.content_type, record.sha256)
            source = stream.source_info(file)
            return _Taken(record, file, source.to_json() if source is not None else None)
        except (CaptureFailure, StorageUnavailable):
            return None
        finally:
            hub.release(key, owner)
            self._busy -= 1

    async def _store(self, row: IngestionRequest, taken: _Taken, operation: Operation) -> Frame | None:
        record = taken.record
        row.source, row.grid_start = taken.source, record.timestamp

        async def commit(records: Sequence[FrameRecord]) -> Frame | None:
            return await self._capture.database.retry_until_known(lambda uow: _commit(uow, row, records[0], operation))

        async def put_again(condemned: FrameRecord) -> FrameRecord:
            if taken.file is None:
                raise StorageUnavailable("The picture's object was taken by the sweeper.")
            again = with_fresh_key(condemned)
            await self._capture.storage.put(again.storage_path, taken.file.data, again.content_type, again.sha256)
            return again

        try:
            frame = await commit_with_reupload([record], commit, put_again)
        except StorageUnavailable:
            return None
        if frame is None:
            return None
        if taken.file is not None and self._capture.checks is not None:
            self._capture.checks.offer(record, taken.file)
        FRAMES.labels(source="rtsp", outcome="stored").inc()
        camera_series.stored(record.camera_id)
        CAPTURES_FINISHED.labels(status=IngestionStatus.COMPLETED.value).inc()
        CAPTURE_TO_STORED.observe(max(0.0, self._capture.now() - record.timestamp.timestamp()))
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
