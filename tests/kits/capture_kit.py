"""What the capture tests share: services on the session's backends, films, and the truth about stored pictures."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import io
import time
from collections.abc import AsyncIterator, Callable
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from demo.film import make_film, make_sound, read_frame_number
from demo.sources import capture_time
from models.access import ALL_CAMERAS, ANONYMOUS
from models.schemas import FrameInfo, FramePage, IngestionResponse, RTSPIngestionRequest
from models.values import FINAL_STATUSES, FrameFilter, IngestionStatus
from services.runtime import Services, open_services
from services.storage_service.service import StorageService
from tests.conftest import Backends, unique
from utils.exceptions import IngestionException

FPS = 25
SECONDS = 4.0
PICTURES = round(FPS * SECONDS)
SIZE = (320, 180)
FRAME = 1 / FPS

FAST: dict[str, object] = {
    "CAPTURE_TIMEOUT": 3, "RECONNECT_DELAY": 0.2, "RECONNECT_MAX_DELAY": 1, "OPEN_TIMEOUT": 1, "READ_TIMEOUT": 1,
    "LINGER": 0.5, "STORE_RETRY": 5, "MAX_LAG": 60,
}  # fmt: skip


def make_films(folder: Path) -> dict[str, Path]:
    """By name: codec and B-pictures; GOPs of one second, `long`: of four."""
    width, height = SIZE

    def film(codec: Any, bframes: int, gop: int = FPS) -> Path:
        return make_film(
            folder,
            codec=codec,
            width=width,
            height=height,
            fps=FPS,
            seconds=SECONDS,
            bitrate=300_000,
            bframes=bframes,
            gop=gop,
        )

    return {
        "h264": film("h264", 0), "h264b": film("h264", 3), "hevc": film("hevc", 0), "hevcb": film("hevc", 2),
        "long": film("h264", 0, 4 * FPS), "sound": make_sound(folder),
    }  # fmt: skip


@dataclass
class Stored:
    """A stored frame, its picture and the truth about it."""

    info: FrameInfo
    image: NDArray[np.uint8]
    number: int
    taken: float  # when the camera took it, seconds since the epoch

    @property
    def error(self) -> float:
        """Seconds by which the service's capture time is off; positive: too late."""
        return self.info.timestamp.timestamp() - self.taken


class Kit:
    """Services under test, and short ways to use them."""

    def __init__(self, services: Services, storage: StorageService) -> None:
        self.services = services
        self.storage = storage
        self._waiting = 0  # how many wait for something
        self._submitted: list[UUID] = []

    async def submit(self, url: str, camera_id: str | None = None, **fields: object) -> UUID:
        body = RTSPIngestionRequest.model_validate({"rtsp_url": url, "camera_id": camera_id or unique(), **fields})
        request_id = (await self.services.orchestrator.submit_capture(body, who=ANONYMOUS)).request_id
        self._submitted.append(request_id)
        return request_id

    async def cancel_all(self) -> None:
        """Cancels what `submit` began: an endless capture left behind takes a stream in every later file."""
        for request_id in self._submitted:
            await self.services.orchestrator.cancel(request_id, cameras=ALL_CAMERAS)

    async def get(self, request_id: UUID) -> IngestionResponse:
        """The request now; asserts what must hold at every moment."""
        found = await self.services.queries.get_request(request_id, who=ANONYMOUS)
        p = found.progress
        assert p.expected == p.stored + p.in_flight + sum(p.dropped.values()), found
        return found

    async def until(
        self, request_id: UUID, condition: Callable[[IngestionResponse], bool], seconds: float = 10.0
    ) -> IngestionResponse:
        """Polls until the condition holds; the ledger must hold at every look and `stored` never fall.

        Ten looks a second (twenty when one waits alone), whoever waits: the loop is the one that the captures run on, and
        looks of many side by side would make them late.
        """
        deadline = time.monotonic() + seconds
        stored = 0
        self._waiting += 1
        try:
            while True:
                found = await self.get(request_id)
                assert found.progress.stored >= stored
                stored = found.progress.stored
                if condition(found):
                    return found
                assert time.monotonic() < deadline, f"not within {seconds} s: {found}"
                assert found.status not in FINAL_STATUSES, f"ended before: {found}"
                await asyncio.sleep(0.05 if self._waiting == 1 else min(0.1 * self._waiting, 1.5))
        finally:
            self._waiting -= 1

    async def final(self, request_id: UUID, seconds: float = 20.0) -> IngestionResponse:
        found = await self.until(request_id, lambda r: r.status in FINAL_STATUSES, seconds)
        assert found.progress.in_flight == 0
        return found

    async def replayed(
        self, request_id: UUID, seconds: float = 30.0, *, but: AbstractSet[str] = frozenset()
    ) -> IngestionResponse:
        """Once all that the spool has of a request that has ended is stored; nothing else was dropped, `but` for these."""
        deadline = time.monotonic() + seconds
        while True:
            found = await self.get(request_id)
            if not set(found.progress.dropped) - but:
                return found
            assert found.status in FINAL_STATUSES
            assert set(found.progress.dropped) - but == {"spooled"}
            assert time.monotonic() < deadline, f"not within {seconds} s: {found}"
            await asyncio.sleep(0.1)

    async def settled(self, request_id: UUID, seconds: float = 20.0) -> IngestionResponse:
        """The final state once the spool has nothing of the request any more: what is read after it stays as it is."""
        await self.final(request_id, seconds)
        return await self.until(request_id, lambda r: "spooled" not in r.progress.dropped, 30.0)

    async def completed(self, request_id: UUID, seconds: float = 20.0) -> IngestionResponse:
        found = await self.final(request_id, seconds)
        assert found.status is IngestionStatus.COMPLETED, found
        return found

    async def frames(self, request_id: UUID) -> list[Stored]:
        """All stored frames by sequence, their pictures decoded and read."""
        wanted = FrameFilter(request_id=request_id)
        infos: list[FrameInfo] = []
        cursor = None
        while True:
            page = FramePage.model_validate_json(await self.services.queries.frames_body(wanted, 200, cursor, ANONYMOUS))
            infos += page.items
            if (cursor := page.next_cursor) is None:
                break
        made = []
        for info in sorted(infos, key=lambda item: item.sequence):
            data = await self.storage.get(info.storage_path)
            assert len(data) == info.size_bytes
            image = opened(data, info.format)
            number = read_frame_number(image)
            assert number is not None, f"slot {info.sequence}: the frame number cannot be read: a damaged picture"
            taken = capture_time(number, FPS, PICTURES, info.timestamp.timestamp())
            made.append(Stored(info, image, number, taken))
        return made


def opened(data: bytes, fmt: str) -> NDArray[np.uint8]:
    """A stored picture in colour, BGR."""
    if fmt in ("h264", "h265"):
        with av.open(io.BytesIO(data), "r") as file:
            (frame,) = file.decode(video=0)
        return frame.to_ndarray(format="bgr24").astype(np.uint8, copy=False)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.astype(np.uint8, copy=False)


@asynccontextmanager
async def open_kit(
    backends: Backends, storage: StorageService, folder: Path, spool: dict[str, object] | None = None, /, **rtsp: object
) -> AsyncIterator[Kit]:
    """Services in this process, with short timeouts; `spool` and `rtsp` are settings of those groups."""
    async with open_services(backends.settings(folder, RTSP={**FAST, **rtsp}, SPOOL=spool or {})) as services:
        kit = Kit(services, on_bucket(storage, backends.storage.BUCKET_NAME))
        try:
            yield kit
        except BaseException:
            with contextlib.suppress(IngestionException, TimeoutError):  # a database that the test cut off
                async with asyncio.timeout(5):
                    await kit.cancel_all()
            raise


def on_bucket(storage: StorageService, name: str) -> StorageService:
    """The same connections, another bucket."""
    other = copy.copy(storage)
    other.bucket, other._bucket = name, copy.copy(storage._bucket)
    other._bucket._name = name
    return other


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)
