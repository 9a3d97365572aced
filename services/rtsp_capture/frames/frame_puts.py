"""The PUTs of one capture: a few at once, queued with those of all captures of the process, each with a time limit."""

from __future__ import annotations

import asyncio
import time

from services.rtsp_capture.frames.frame_record import PendingFrame
from services.rtsp_capture.frames.picture_budget import PictureBudget
from services.storage_service.service import StorageService
from utils.exceptions import StorageUnavailable
from utils.metrics import QUEUE_DEPTH

_MAX_CONCURRENT = 4  # of one capture
_TRIES = 2
_RETRY_DELAY = 0.2  # seconds
_PUT_TIMEOUT = 15.0  # seconds for a frame, its tries included
_STORE = QUEUE_DEPTH.labels(queue="store")


class FramePuts:
    """On the event loop. `busy`: the slots being PUT at this moment."""

    def __init__(self, storage: StorageService, budget: PictureBudget, size: int, max_wait: float) -> None:
        """`size`: pictures that the capture may hold; `max_wait`: seconds that one may wait for its PUT to begin."""
        self._storage = storage
        self._budget = budget
        self._max_wait = max_wait
        self._free = asyncio.Semaphore(min(_MAX_CONCURRENT, max(1, size - 1)))  # one waits at least
        self.busy: set[int] = set()

    async def put(self, frame: PendingFrame) -> bool:
        """Whether the object is stored. False after two failures, or when the PUT did not begin within `max_wait`."""
        loop = asyncio.get_running_loop()
        _STORE.inc()
        try:
            async with asyncio.timeout_at(loop.time() + self._max_wait) as limit:
                async with self._free, self._budget.storing(frame.reservation):
                    limit.reschedule(loop.time() + _PUT_TIMEOUT)
                    self.busy.add(frame.slot)
                    try:
                        return await self._try(frame)
                    finally:
                        self.busy.discard(frame.slot)
        except TimeoutError:
            return False
        finally:
            _STORE.dec()

    async def _try(self, frame: PendingFrame) -> bool:
        record = frame.record
        for attempt in range(1, _TRIES + 1):
            try:
                await self._storage.put(record.storage_path, frame.file.data, record.content_type, record.sha256)
                return True
            except StorageUnavailable:
                if attempt == _TRIES or time.monotonic() - frame.since > self._max_wait:
                    break
                await asyncio.sleep(_RETRY_DELAY)
        return False
