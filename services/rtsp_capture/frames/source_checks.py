"""A share of the source pictures (RTSP__SOURCE_CHECK), decoded in the background while the machine has nothing else to do.

Checked are pictures that this process has just stored, whose bytes it still has, in the worker processes of `trials`, one at
a time, in the order in which they were stored. What waits is bounded: the newest pictures win, and what found no idle
moment stays undecoded.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from uuid import UUID

from models.values import FrameRecord, Integrity
from services.rtsp_capture.frames.integrity import FrameIntegrity
from services.rtsp_capture.media.packets import PictureFile
from services.rtsp_capture.media.seen import MOST, Seen, detach_seen
from utils.logger import get_logger
from utils.process_pool import JobFailed, PoolClosed, PoolUnavailable, ProcessPool
from utils.tasks import cancel_all

log = get_logger(__name__)

CHECK = "services.rtsp_capture.media.source_reading:check"
MAX_WAITING = 64  # pictures
MAX_BYTES = 33_554_432  # of these
BUSY = 0.6  # of the machine's cores, by its load of the last minute: above it nothing is checked
_POLL_INTERVAL = 1.0  # seconds
_BASE, _PER_PIXEL = 67_108_864, 80  # bytes that a job takes


def machine_idle() -> bool:
    """Whether less than BUSY of the processors that this process may use are at work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return os.getloadavg()[0] < BUSY * cores


def chosen(frame_id: UUID, share: float) -> bool:
    """Whether the frame is of that share (0-1) of all: the same answer wherever it is asked."""
    return int.from_bytes(blake2b(frame_id.bytes, digest_size=4).digest()) < share * (1 << 32)


class SourceChecks:
    """One a process. On the event loop."""

    def __init__(
        self, share: float, pool: ProcessPool, max_pixels: int, integrity: FrameIntegrity,
        idle: Callable[[], bool] = machine_idle,
    ) -> None:  # fmt: skip
        self._share, self._pool, self._max_pixels = share, pool, max_pixels
        self._integrity, self._idle = integrity, idle
        self._waiting: deque[tuple[FrameRecord, PictureFile]] = deque()
        self._bytes = 0
        self._came = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="source-checks")

    async def stop(self) -> None:
        if self._task is not None:
            await cancel_all(self._task)

    def offer(self, record: FrameRecord, file: PictureFile) -> None:
        """A frame was stored; it is checked if it is a source picture, and of the share."""
        if file.integrity is not Integrity.UNDECODED or not chosen(record.frame_id, self._share):
            return
        self._waiting.append((record, file))
        self._bytes += len(file.data)
        while len(self._waiting) > MAX_WAITING or self._bytes > MAX_BYTES:
            self._bytes -= len(self._waiting.popleft()[1].data)
        self._came.set()

    async def _run(self) -> None:
        while True:
            await self._came.wait()
            while self._waiting:
                if not self._idle():
                    await asyncio.sleep(_POLL_INTERVAL)
                    continue
                record, file = self._waiting.popleft()  # in the order of capture, in which quality is judged
                self._bytes -= len(file.data)
                try:
                    await self._check(record, file)
                except PoolClosed:
                    return
                except Exception:
                    log.exception("source_check_failed", frame_id=str(record.frame_id))
            self._came.clear()

    async def _check(self, record: FrameRecord, file: PictureFile) -> None:
        memory = min(self._pool.largest, _BASE + 2 * len(file.data) + file.width * file.height * _PER_PIXEL)
        try:
            answer, view = await self._pool.run_with_bytes(
                CHECK, self._max_pixels, attached=[file.data], most=MOST, memory=memory
            )
            (seen,), _ = detach_seen(answer, view, 1)
        except PoolUnavailable:
            return
        except JobFailed as failed:
            if failed.reason == "killed":  # from outside
                return
            seen = None
        await self._integrity.decoded(
            record.frame_id, record.camera_id, record.timestamp, seen or Seen(False, None), silent=file.silent, aside=False
        )
