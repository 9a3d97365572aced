"""Two stored frames to the pairs' worker process and back: alignments, views. On the event loop.

Bounded: PROCESSES workers with MEMORY together and TIMEOUT seconds a job, MAX_FILE bytes and MAX_PIXELS a picture, WAITING
jobs at once. Metrics: those of process pools, label `pairs`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from models.entities import Frame
from services.rtsp_capture.frames.integrity import FrameIntegrity
from services.rtsp_capture.media.seen import MOST, detach_seen
from services.storage_service.service import StorageService
from utils.exceptions import ImageTooLarge, InvalidImage, Overloaded, ShuttingDown
from utils.process_pool import JobFailed, PoolClosed, PoolUnavailable, ProcessPool

PROCESSES = 1
MEMORY = 2_147_483_648  # bytes
ALLOWANCE = 805_306_368  # bytes of a job: OpenCV's and SciPy's own, and pictures at 960 pixels
TIMEOUT = 60.0  # seconds
MAX_FILE = 268_435_456  # bytes
MAX_PIXELS = 100_000_000
MAX_VIEW = 33_554_432  # bytes
WAITING = 16
_PER_PIXEL = {"jpg": 0, "h264": 80, "h265": 80}  # bytes while a picture of that format is decoded; 8 of the others
_ALIGN, _VIEW = "services.pairs.pair_jobs:align", "services.pairs.pair_jobs:view"


class PairCalls:
    """Raises StorageUnavailable, ObjectMissing, ShuttingDown beside what its methods name."""

    def __init__(self, storage: StorageService, integrity: FrameIntegrity) -> None:
        self._storage, self._integrity = storage, integrity
        self._pool = ProcessPool("pairs", PROCESSES, max_memory=MEMORY, allowance=ALLOWANCE, timeout=TIMEOUT)
        self._places = WAITING

    async def align(self, before: Frame, after: Frame) -> dict[str, Any]:
        """The alignment as the wire shows it; whatever a picture does to the worker is `failed` with a reason.

        Raises Overloaded.
        """
        try:
            return (await self._run(_ALIGN, before, after, most=0))[0]
        except ImageTooLarge:
            return {"status": "failed", "reason": "image_too_large"}
        except JobFailed as error:
            return {"status": "failed", "reason": "timeout" if error.reason == "timeout" else "crashed"}

    async def view(self, before: Frame, after: Frame, kind: str, width: int, matrix: list[float] | None) -> bytes:
        """A JPEG, of `difference` a PNG. Raises Overloaded, ImageTooLarge, InvalidImage."""
        try:
            answer, data = await self._run(_VIEW, before, after, kind, width, matrix, most=MAX_VIEW)
        except JobFailed:
            raise InvalidImage("The picture could not be drawn.") from None
        if answer.get("failed") == "image_too_large":
            raise ImageTooLarge
        if "failed" in answer:
            raise InvalidImage
        return data

    async def close(self) -> None:
        await self._pool.close()

    async def _run(self, job: str, before: Frame, after: Frame, *args: Any, most: int) -> tuple[dict[str, Any], bytes]:
        frames = (before, after)
        if any(frame.size_bytes > MAX_FILE or frame.width * frame.height > MAX_PIXELS for frame in frames):
            raise ImageTooLarge
        if self._places <= 0:
            raise Overloaded("Too many pairs are aligned or drawn at once.", retry_after=5)
        self._places -= 1
        try:
            data = await asyncio.gather(*(self._storage.get(frame.storage_path) for frame in frames))
            sizes = [len(part) for part in data]
            memory = ALLOWANCE + 2 * sum(sizes) + max(_PER_PIXEL.get(f.format, 8) * f.width * f.height for f in frames)
            memory = min(memory, self._pool.largest)
            answer, made = await self._pool.run_with_bytes(
                job, sizes, MAX_PIXELS, *args, attached=data, most=most + 2 * MOST, memory=memory, patience=TIMEOUT
            )
        except PoolUnavailable:
            raise Overloaded("No room to align pairs. Try again later.", retry_after=5) from None
        except PoolClosed:
            raise ShuttingDown from None
        finally:
            self._places += 1
        seen, made = detach_seen(answer, made, 2)
        for frame, one in zip(frames, seen, strict=True):
            await self._integrity.shown(frame, one)
        return answer, made
