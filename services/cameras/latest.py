"""The newest picture of a camera, for dashboards: of its open stream, else the newest stored frame. Stores nothing.

A picture is decoded or converted once for all who ask, by threads or a worker process; what was made is kept in memory
(MAX_KEPT_BYTES). Of one stream a picture is made at most every SPACING seconds, however many ask. On the event loop.

Longer than 250 lines: where a picture comes from is one order: this stream, another process's, the store.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from models.access import Principal
from models.entities import Frame
from repositories.database import Database
from services.cameras.places import CameraPlaces
from services.execution.calls import CallAnswer
from services.rtsp_capture.frames.integrity import FrameIntegrity
from services.rtsp_capture.media.gop_buffer import Picture
from services.rtsp_capture.media.packets import Jpeg
from services.rtsp_capture.streams.keep_open import KeepOpenStreams
from services.rtsp_capture.streams.live_decoder import FOLLOW_SECONDS
from services.rtsp_capture.streams.stream import Stream
from services.storage_service.service import StorageService
from services.upload_handler.handler import UploadHandler
from utils.exceptions import CameraNotFound, CaptureFailure, FrameNotFound, ImageTooLarge, IngestionException, InvalidImage
from utils.kept_bytes import KeptBytes
from utils.metrics import LATEST_PICTURES

SPACING = 0.2  # seconds
LATEST_SECONDS = 10.0  # that another process may take for a picture
MAX_QUESTIONS = 32  # cameras whose picture of another process is kept
QUALITY = 90
MAX_KEPT_BYTES = 67_108_864
MAX_KEPT_ONE = 4_194_304  # a larger stored JPEG is passed on from the store
MAX_CONVERTED = 268_435_456  # bytes of a stored file that is converted
CONVERSIONS = 2  # at once


@dataclass(frozen=True, slots=True)
class LatestPicture:
    """A JPEG: its bytes by `chunks`, as many as `size`. `at`: its capture time."""

    etag: str
    at: datetime
    source: Literal["stream", "frame"]
    load: Callable[[], Coroutine[Any, Any, tuple[int, AsyncIterator[bytes]]]]
    """Size in bytes, and the bytes. Raises StorageUnavailable, ObjectMissing, ImageTooLarge, InvalidImage, Overloaded."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """A picture of another process's stream."""

    etag: str
    at: datetime
    data: bytes


@dataclass(frozen=True, slots=True)
class _Question:
    """The question for such a picture that was asked last, or is being asked."""

    task: asyncio.Task[_Shown | None]
    begun: float


@dataclass(slots=True)
class _Live:
    """The picture of a stream that was made last, or is in the making."""

    stream: Stream
    picture: Picture
    task: asyncio.Task[Jpeg]
    begun: float

    @property
    def at(self) -> float:
        return self.picture.packet.timestamp


class LatestPictures:
    """Raises CameraNotFound, FrameNotFound, DatabaseUnavailable."""

    def __init__(
        self, database: Database, storage: StorageService, keeper: KeepOpenStreams, uploads: UploadHandler,
        integrity: FrameIntegrity, now: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic,
        places: CameraPlaces | None = None,
    ) -> None:  # fmt: skip
        """`now`: seconds since the epoch. `places`: where streams of other processes are asked for."""
        self._places = places
        self._questions: OrderedDict[str, _Question] = OrderedDict()
        self._database, self._storage, self._keeper, self._uploads = database, storage, keeper, uploads
        self._now, self._monotonic = now, monotonic
        self._integrity = integrity
        self._live: OrderedDict[str, _Live] = OrderedDict()
        self._kept = KeptBytes(MAX_KEPT_BYTES)
        self._converting = asyncio.Semaphore(CONVERSIONS)

    async def get(self, camera_id: str, who: Principal, max_age: float | None) -> LatestPicture:
        """The newest picture; with `max_age`, one that is at most so many seconds old, else FrameNotFound."""
        if not who.cameras.covers(camera_id):
            raise CameraNotFound
        found = await self._of_stream(camera_id, max_age)
        if found is None:
            found = await self._of_stream_elsewhere(camera_id, max_age)
        if found is None:
            found = await self._of_frame(camera_id, who, max_age)
        LATEST_PICTURES.labels(source=found.source).inc()
        return found

    def _fresh(self, at: float, max_age: float | None) -> bool:
        return max_age is None or self._now() - at <= max_age

    # -- of the open stream ------------------------------------------------------------------------------------

    async def _of_stream(self, camera_id: str, max_age: float | None) -> LatestPicture | None:
        found = self._keeper.stream_of(camera_id)
        if found is None or not found[0].live:
            self._live.pop(camera_id, None)
            return None
        live = await self._making(camera_id, found[0], max_age)
        if live is None or not self._fresh(live.at, max_age):
            return None
        try:
            jpeg = await asyncio.shield(live.task)
        except CaptureFailure:  # damaged, or it refers to what was never received
            return None

        async def load() -> tuple[int, AsyncIterator[bytes]]:
            return len(jpeg.data), _whole(jpeg.data)

        return LatestPicture(f'"{jpeg.sha256}"', datetime.fromtimestamp(live.at, UTC), "stream", load)

    async def _making(self, camera_id: str, stream: Stream, max_age: float | None) -> _Live | None:
        """The stream's newest picture, or the one before within SPACING. None when the stream has none."""
        live = self._live.get(camera_id)
        if live is not None and live.stream is stream and self._fresh(live.at, max_age):
            failed = live.task.done() and (live.task.cancelled() or live.task.exception() is not None)
            if not failed and (not live.task.done() or self._monotonic() - live.begun < SPACING):
                return live
        await stream.catch_up(FOLLOW_SECONDS)
        live = self._live.get(camera_id)
        picture = stream.newest(self._now(), 0.0)
        if picture is None:
            return None
        if live is None or live.picture.packet is not picture.packet:
            task = asyncio.create_task(stream.decoder.snapshot(picture, QUALITY))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # asked for or not
            live = self._live[camera_id] = _Live(stream, picture, task, self._monotonic())
            self._forget_closed()
        return live

    def _forget_closed(self) -> None:
        """Nothing is kept of a stream that is gone: as many pictures as open streams at most."""
        for name, live in list(self._live.items()):
            if not live.stream.live:
                del self._live[name]

    # -- of another process's stream ---------------------------------------------------------------------------

    async def _of_stream_elsewhere(self, camera_id: str, max_age: float | None) -> LatestPicture | None:
        """Asked for once for all who ask, at most every SPACING seconds."""
        if self._places is None or self._places.alone:
            return None
        question = self._questions.get(camera_id)
        if question is None or (question.task.done() and self._monotonic() - question.begun >= SPACING):
            failed = question is None or question.task.cancelled() or question.task.exception() is not None
            former = None if question is None or failed else question.task.result()
            task = asyncio.create_task(self._ask(camera_id, former))
            question = self._questions[camera_id] = _Question(task, self._monotonic())
            while len(self._questions) > MAX_QUESTIONS:
                self._questions.popitem(last=False)
        found = await asyncio.shield(question.task)
        if found is None or not self._fresh(found.at.timestamp(), max_age):
            return None

        async def load() -> tuple[int, AsyncIterator[bytes]]:
            return len(found.data), _whole(found.data)

        return LatestPicture(found.etag, found.at, "stream", load)

    async def _ask(self, camera_id: str, former: _Shown | None) -> _Shown | None:
        assert self._places is not None
        try:
            stream = (await self._places.streams([camera_id])).get(camera_id)
            if stream is None or stream["state"] != "live":
                return None
            asked = {"camera_id": camera_id, "etag": former.etag if former else None}
            answer = await self._places.ask("latest", asked, camera_id=camera_id, seconds=LATEST_SECONDS)
        except IngestionException:  # the stored frame is there
            return None
        if answer.body is None:
            return None
        at = datetime.fromisoformat(answer.body["at"])
        if answer.picture is None:
            return _Shown(former.etag, at, former.data) if former is not None else None
        return _Shown(answer.body["etag"], at, answer.picture)

    async def latest_for_another(self, asked: Any) -> CallAnswer:
        """What another process asks by `latest`; the bytes are left out where it has them."""
        found = await self._of_stream(asked["camera_id"], None)
        if found is None:
            return CallAnswer()
        body = {"etag": found.etag, "at": found.at.isoformat()}
        if found.etag == asked["etag"]:
            return CallAnswer(body)
        _, chunks = await found.load()
        return CallAnswer(body, b"".join([chunk async for chunk in chunks]))

    # -- of the newest frame -----------------------------------------------------------------------------------

    async def _of_frame(self, camera_id: str, who: Principal, max_age: float | None) -> LatestPicture:
        async with self._database.reading() as uow:
            row = await uow.frames.newest(camera_id, who.cameras)
            if row is None and await uow.cameras.get(camera_id) is None:
                raise CameraNotFound
        if row is None:
            raise FrameNotFound("This camera has no picture yet.")
        if not self._fresh(row.capture_timestamp.timestamp(), max_age):
            raise FrameNotFound("The camera's newest picture is older than max_age.")
        etag = f'"{row.sha256}"' if row.format == "jpg" else f'"{row.sha256}-jpg"'
        return LatestPicture(etag, row.capture_timestamp, "frame", partial(self._load, row))

    async def _load(self, row: Frame) -> tuple[int, AsyncIterator[bytes]]:
        if row.format == "jpg" and row.size_bytes > MAX_KEPT_ONE:
            return row.size_bytes, self._storage.read_range(row.storage_path, 0, row.size_bytes)
        make = partial(self._storage.get, row.storage_path) if row.format == "jpg" else partial(self._convert, row)
        data = await self._kept.get(f"{row.id}", make)
        return len(data), _whole(data)

    async def _convert(self, row: Frame) -> bytes:
        if row.size_bytes > MAX_CONVERTED:
            raise ImageTooLarge("The newest frame is too large to be shown.")
        async with self._converting:
            data = await self._storage.get(row.storage_path)
            made = await self._uploads.to_jpeg(data, row.format, row.width, row.height)
        await self._integrity.shown(row, made.seen)
        if not made.data:
            raise InvalidImage("Nothing of the picture can be decoded.")
        return made.data


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data
