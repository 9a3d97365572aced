"""The frames of one capture that are in the spool, or on their way into it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

from services.rtsp_capture.frames.pending_frame import PendingFrame
from services.spool.spool import Spool


class FrameSpool:
    """On the event loop. `writing`: by slot, frames that are being written."""

    def __init__(
        self,
        spool: Spool,
        request_id: UUID,
        *,
        fps: float,
        epoch: int,
        stored: Callable[[], None],
        lost: Callable[[int], None],
    ) -> None:
        """`stored` is called for each frame that left the spool for its slot, `lost` with the slot of one that will not."""
        self._spool = spool
        self._request_id = request_id
        self._fps = fps
        self._epoch = epoch
        self._stored = stored
        self._lost = lost
        self.writing: dict[int, asyncio.Task[None]] = {}
        self.after = spool.settings.AFTER  # seconds that a frame may wait for store and database
        self.slots = spool.follow(request_id, self._told)
        """Slots whose frames are in the spool, an earlier owner's too."""

    def put(self, item: PendingFrame) -> None:
        """Begins to write a frame; it is in `slots` once it is on disk."""
        self.writing[item.record.sequence] = asyncio.create_task(self._write(item))

    async def written(self) -> None:
        """Waits until nothing is being written."""
        while self.writing:
            await asyncio.wait(list(self.writing.values()))

    def close(self) -> None:
        self._spool.unfollow(self._request_id, self._told)

    async def _write(self, item: PendingFrame) -> None:
        slot = item.record.sequence
        try:
            kept = await self._spool.put(
                item.record, item.jpeg.data, grid_start=item.grid_start, fps=self._fps, epoch=self._epoch
            )
            if not kept:
                self._lost(slot)
        finally:
            if self.writing.get(slot) is asyncio.current_task():
                del self.writing[slot]

    def _told(self, slot: int, outcome: str) -> None:
        """What became of a record of this request, whoever spooled it."""
        if outcome == "spooled":
            self.slots.add(slot)
            return
        self.slots.discard(slot)
        if outcome in ("stored", "exists"):  # exists: by a commit of ours whose outcome was not known, or another's
            self._stored()
        elif outcome in ("dropped", "dead"):
            self._lost(slot)
