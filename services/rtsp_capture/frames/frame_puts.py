"""The PUTs of one capture: a few at once, in turn with all captures of the process, each with an end."""

from __future__ import annotations

import asyncio
import time

from services.rtsp_capture.frames.pending_frame import PendingFrame
from services.rtsp_capture.frames.picture_budget import PictureBudget
from services.storage_service.service import StorageService
from utils.exceptions import StorageUnavailable
from utils.metrics import QUEUE_DEPTH

_AT_ONCE = 4  # of one capture
_TRIES = 2
_PAUSE = 0.2  # seconds between them
_LIMIT = 15.0  # seconds that a frame's PUT may take, its tries included
_STORE = QUEUE_DEPTH.labels(queue="store")


class FramePuts:
    """On the event loop. `busy`: the slots being PUT at this moment."""

    def __init__(self, storage: StorageService, budget: PictureBudget, size: int, after: float) -> None:
        """`size`: pictures that the capture may hold; `after`: seconds that one may wait for its turn."""
        self._storage = storage
        self._budget = budget
        self._after = after
        self._free = asyncio.Semaphore(min(_AT_ONCE, max(1, size - 1)))  # one waits at least
        self.busy: set[int] = set()

    async def put(self, item: PendingFrame) -> bool:
        """Whether the object is there. False after two failures, and after `after` seconds without a turn."""
        loop = asyncio.get_running_loop()
        _STORE.inc()
        try:
            async with asyncio.timeout_at(loop.time() + self._after) as limit:
                async with self._free, self._budget.turn(item.held):
                    limit.reschedule(loop.time() + _LIMIT)
                    self.busy.add(item.record.sequence)
                    try:
                        return await self._try(item)
                    finally:
                        self.busy.discard(item.record.sequence)
        except TimeoutError:
            return False
        finally:
            _STORE.dec()

    async def _try(self, item: PendingFrame) -> bool:
        record = item.record
        for attempt in range(1, _TRIES + 1):
            try:
                await self._storage.put(record.storage_path, item.jpeg.data, record.content_type, record.sha256)
                return True
            except StorageUnavailable:
                if attempt == _TRIES or time.monotonic() - item.since > self._after:
                    break
                await asyncio.sleep(_PAUSE)
        return False
