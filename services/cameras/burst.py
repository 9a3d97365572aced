"""One moment of several cameras: a group of single_frame requests for the same instant, and how far apart they came.

Each is run by the process that has the camera's stream, for a ring is in one process only. Streams that are not open are
opened first, here or by a process of the camera's site, so that all pictures are of one moment and not of when each camera
was ready. Longer than 250 lines: what opens, holds and lets go is one order of steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from config import RtspSettings
from models.access import ALL_CAMERAS, CameraGrant, Principal
from models.entities import CameraConfiguration
from models.schemas import BurstRequest, BurstResponse, RTSPIngestionRequest
from models.values import FINAL_STATUSES, CaptureMode, Encoding
from repositories.database import Database
from services.cameras.places import CameraPlaces, key_json
from services.execution.membership import worker_of
from services.idempotency.operation import Operation
from services.orchestrator import Orchestrator
from services.reads.serializers.bursts import to_burst
from services.reads.serializers.frames import served
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.media.packets import StreamInfo
from services.rtsp_capture.streams.keep_open import key_of
from services.rtsp_capture.streams.stream import Stream, StreamKey
from services.rtsp_capture.streams.stream_hub import StreamHub
from services.storage_service.service import StorageService
from utils.exceptions import (
    CameraDisabled,
    CameraFailed,
    CaptureFailure,
    DatabaseUnavailable,
    FieldError,
    InvalidRequest,
    NoWorker,
    Overloaded,
    RateLimited,
    RequestNotFound,
    TimestampOutOfRange,
)
from utils.ids import new_id
from utils.secret_box import SecretBox
from utils.tasks import cancel_all

AHEAD = timedelta(seconds=10)  # how far ahead a burst's moment may lie: the answer is waited for
MARGIN = 15.0  # seconds beyond what a capture may take that its end is waited for: storing the frame


class _Opening:
    """Waits until each stream gives pictures, or has failed while none is still on its way."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = streams
        self._changed = asyncio.Event()

    def on_picture(self, _picture: Picture) -> None:
        self._changed.set()

    def on_live(self, _info: StreamInfo) -> None:
        self._changed.set()

    def on_failure(self, _failure: CaptureFailure) -> None:
        self._changed.set()

    async def wait(self) -> None:
        for stream in self._streams:
            stream.listen(self)
        try:
            while not all(self._decided(stream) for stream in self._streams):
                self._changed.clear()
                await self._changed.wait()
        finally:
            for stream in self._streams:
                stream.unlisten(self)

    @staticmethod
    def _decided(stream: Stream) -> bool:
        if not stream.live:
            return stream.failure is not None
        first, newest = stream.first_of_segment, stream.ring.newest()
        return first is not None and newest is not None and newest.packet.segment == first.segment


@dataclass(frozen=True, slots=True)
class _Others:
    """The processes that run a burst's requests for this one: who owns the leases there, by camera."""

    owners: dict[str, str]
    deaf: set[str]  # of the version before: they are to be asked to begin


class BurstService:
    """Raises SecretUnreadable, DatabaseUnavailable, StorageUnavailable beside what its methods name."""

    def __init__(
        self, settings: RtspSettings, database: Database, storage: StorageService, hub: StreamHub, secrets: SecretBox,
        orchestrator: Orchestrator, places: CameraPlaces,
    ) -> None:  # fmt: skip
        self._places = places
        self._settings = settings
        self._database = database
        self._storage = storage
        self._hub = hub
        self._secrets = secrets
        self._orchestrator = orchestrator
        self._releasing: set[asyncio.Task[None]] = set()

    async def take(self, body: BurstRequest, who: Principal, operation: Operation | None = None) -> BurstResponse:
        """Takes the moment and waits until every camera's request is final.

        Raises InvalidRequest for a camera that is not registered, CameraDisabled, TimestampOutOfRange, Overloaded when
        RTSP__MAX_CONCURRENT_STREAMS leave no room for all of them, RateLimited beyond the caller's share, ShuttingDown;
        CameraFailed, with the results in its details, when no camera gave a frame. The group's id is the operation's: a
        burst that an earlier run of its key has taken is waited for and answered.
        """
        operation = operation or Operation()
        if operation.resumed and (taken := await self._requests_of(operation.request_id)):
            await self._finished(asyncio.create_task(asyncio.sleep(0, taken)), datetime.now(UTC))
            return await self._answer(operation, who.cameras)
        self._check_moment(body.at)
        cameras = await self._cameras(body.camera_ids)
        away = await self._places.elsewhere(cameras)
        here = [camera for camera in cameras if camera.camera_id not in away]
        keys = [] if self._past(body.at) else [key_of(camera, self._secrets) for camera in here]
        there = [camera for camera in cameras if camera.camera_id in away]
        holding = self._held(operation.request_id, there, who, body.at)
        async with holding as others, self.open(keys, who.row_owner) as streams:
            if body.at is None:
                await self.ready(streams)
            at = body.at or datetime.now(UTC)
            captures = [(self._single(camera, body, at), camera) for camera in cameras]
            submitting = asyncio.create_task(self._submit(operation, captures, body.tolerance_ms, who, others))
            await self._finished(submitting, at)
        return await self._answer(operation, who.cameras)

    async def _answer(self, operation: Operation, cameras: CameraGrant) -> BurstResponse:
        answer = await self.get(operation.request_id, cameras)
        if not answer.stored:
            operation.settled = all(result.status in FINAL_STATUSES for result in answer.results)
            raise self._nothing(answer)
        return answer

    async def _requests_of(self, group_id: UUID) -> list[UUID]:
        async with self._database.reading() as uow:
            return [row.id for row in await uow.requests.of_group(group_id, ALL_CAMERAS)]

    async def get(self, group_id: UUID, cameras: CameraGrant) -> BurstResponse:
        """A burst as it stands, its requests of `cameras`. Raises RequestNotFound when there is none."""
        async with self._database.reading() as uow:
            rows = await uow.requests.of_group(group_id, cameras)
            frames = await uow.frames.first_of([row.id for row in rows])
        if not rows:
            raise RequestNotFound("There is no burst with this id.")
        urls = await self._storage.presign([served(frame) for frame in frames.values()])
        return to_burst(group_id, rows, frames, dict(zip(frames, urls, strict=True)))

    # -- what is asked for -------------------------------------------------------------------------------------

    def _check_moment(self, at: datetime | None) -> None:
        if at is None:
            return
        ahead = at - datetime.now(UTC)
        if ahead > AHEAD or -ahead > timedelta(seconds=self._settings.RING_SECONDS):
            reason = f"lies more than RTSP__RING_SECONDS ago or more than {AHEAD.seconds} s ahead"
            raise TimestampOutOfRange.of("at", reason, code="timestamp_out_of_range")

    @staticmethod
    def _past(at: datetime | None) -> bool:
        """Only a stream that was open then has pictures of a moment that has passed: none is opened for it."""
        return at is not None and at <= datetime.now(UTC)

    async def _cameras(self, camera_ids: Sequence[str]) -> list[CameraConfiguration]:
        async with self._database.reading() as uow:
            found = await uow.cameras.named(camera_ids)
        unknown = [
            FieldError("body", str(index), "camera_not_found", "is not a registered camera", f"/camera_ids/{index}")
            for index, camera_id in enumerate(camera_ids)
            if camera_id not in found
        ]
        if unknown:
            raise InvalidRequest(errors=unknown)
        disabled = [camera_id for camera_id in camera_ids if not found[camera_id].enabled]
        if disabled:
            raise CameraDisabled(f"Disabled: {', '.join(disabled)}.")
        return [found[camera_id] for camera_id in camera_ids]

    @staticmethod
    def _single(camera: CameraConfiguration, body: BurstRequest, at: datetime) -> RTSPIngestionRequest:
        return RTSPIngestionRequest(
            camera_id=camera.camera_id, capture_mode=CaptureMode.SINGLE_FRAME, frame_timestamp=at, meta=body.meta,
            encoding=Encoding.JPEG,  # keyframes of several cameras are of no common moment
            pick=body.pick,
        )  # fmt: skip

    # -- in other processes ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _held(
        self, group_id: UUID, cameras: Sequence[CameraConfiguration], who: Principal, at: datetime | None
    ) -> AsyncIterator[_Others]:
        """The cameras' streams, open in the processes that capture them until the requests are final. Raises NoWorker, and
        what `open` raises."""
        others = _Others({}, set())
        holds: list[str] = []
        ahead = max(0.0, (at - datetime.now(UTC)).total_seconds()) if at is not None else 0.0

        async def hold(group: Sequence[CameraConfiguration], name: str) -> None:
            keys = [] if self._past(at) else [key_json(key_of(camera, self._secrets)) for camera in group]
            asked = {
                "hold": name, "keys": keys, "captures": len(group), "owner": who.row_owner, "wait": at is None,
                "group_id": str(group_id),
                "seconds": ahead + self._settings.CAPTURE_TIMEOUT + 2 * MARGIN,
            }  # fmt: skip
            answer = await self._places.ask(
                "hold", asked, site=group[0].site, camera_id=group[0].camera_id,
                seconds=self._settings.CAPTURE_TIMEOUT + MARGIN,
            )  # fmt: skip
            owner = answer.body["owner"]
            others.owners.update(dict.fromkeys((camera.camera_id for camera in group), owner))
            if not answer.body.get("follows"):
                others.deaf.add(owner)

        holding: list[asyncio.Task[None]] = []
        try:
            for group in await self._places.groups(cameras) if cameras else []:
                holds.append(str(new_id()))
                holding.append(asyncio.create_task(hold(group, holds[-1])))
            await asyncio.gather(*holding)
            yield others
        finally:
            await cancel_all(*holding)
            for owner in set(others.owners.values()):  # nobody waits for that
                task = asyncio.create_task(self._notify(owner, "release", {"holds": holds}), name="release")
                self._releasing.add(task)
                task.add_done_callback(self._releasing.discard)

    async def close(self) -> None:
        """What was not released is let go after the time that was named."""
        await cancel_all(*self._releasing)

    async def _submit(
        self, operation: Operation, captures: Sequence[tuple[RTSPIngestionRequest, CameraConfiguration]],
        tolerance_ms: float, who: Principal, others: _Others,
    ) -> list[UUID]:  # fmt: skip
        requests = await self._orchestrator.submit_burst(operation, captures, tolerance_ms, who, others.owners)
        asked = {"group_id": str(operation.request_id)}
        await asyncio.gather(*(self._notify(owner, "begin", asked) for owner in others.deaf))
        return requests

    async def _notify(self, owner: str, kind: str, asked: dict[str, Any]) -> None:
        """One that is gone by now, or does not answer: its leases lapse, and others go on."""
        with suppress(NoWorker, DatabaseUnavailable):
            await self._places.ask(kind, asked, to=worker_of(owner), seconds=5)

    # -- the streams -------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def open(self, keys: Sequence[StreamKey], owner: str | None) -> AsyncIterator[list[Stream]]:
        """The streams, held until the requests are final. Raises Overloaded when there is no room for all, RateLimited
        when `owner` may not open so many beside those it has."""
        new = [key for key in keys if self._hub.find(key) is None]
        acquiring: dict[StreamKey, asyncio.Task[Stream]] = {}
        try:
            for group in ([key for key in keys if key not in new], new):
                if group is new and len(new) > self._hub.free:
                    raise Overloaded("RTSP__MAX_CONCURRENT_STREAMS leave no room for all of the cameras.", retry_after=5)
                if group is new and new and not self._hub.may_open(owner, len(new)):
                    raise RateLimited("This caller holds its share (LIMITS__SHARE) of the streams already.", retry_after=5)
                for key in group:
                    acquiring[key] = asyncio.create_task(self._hub.acquire(key, owner, beyond_share=True))
                await asyncio.sleep(0)  # those that are open already are ours now, and not free to be closed
            if acquiring:
                await asyncio.wait(acquiring.values(), timeout=self._settings.CAPTURE_TIMEOUT)
            yield [task.result() for task in acquiring.values() if task.done()]
        finally:
            for task in acquiring.values():
                task.cancel()
            if acquiring:
                await asyncio.wait(acquiring.values())
            for key, task in acquiring.items():
                if not task.cancelled() and task.exception() is None:
                    self._hub.release(key, owner)

    async def ready(self, streams: Sequence[Stream]) -> None:
        """Until each stream has a keyframe or has failed, at most RTSP__CAPTURE_TIMEOUT."""
        try:
            async with asyncio.timeout(self._settings.CAPTURE_TIMEOUT):
                await _Opening(streams).wait()
        except TimeoutError:
            pass

    # -- the requests ------------------------------------------------------------------------------------------

    async def _finished(self, submitting: asyncio.Task[list[UUID]], at: datetime) -> None:
        """Waits for all of them. When nobody waits any more, and when it takes too long, the rest is cancelled."""
        ahead = max(0.0, (at - datetime.now(UTC)).total_seconds())
        wait = ahead + self._settings.CAPTURE_TIMEOUT + MARGIN
        try:
            requests = await asyncio.shield(submitting)
            final = await asyncio.gather(*(self._orchestrator.wait_final(request, wait) for request in requests))
        except asyncio.CancelledError:
            await asyncio.shield(self._cancel(await submitting))
            raise
        if not all(final):
            await self._cancel([request for request, done in zip(requests, final, strict=True) if not done])
            self._orchestrator.check_accepting()

    async def _cancel(self, requests: Sequence[UUID]) -> None:
        for request in requests:
            await self._orchestrator.cancel(request, ALL_CAMERAS)

    @staticmethod
    def _nothing(answer: BurstResponse) -> CameraFailed:
        error = next((result.error for result in answer.results if result.error is not None), None)
        results = answer.model_dump(mode="json", include={"group_id", "at", "tolerance_ms", "results"})
        if error is None:
            failed = CameraFailed("stream_ended", "The burst was cancelled.", retryable=True)
        else:
            failed = CameraFailed(error.code, error.message, retryable=error.retryable)  # type: ignore[arg-type]
        failed.details.update(results)
        return failed
