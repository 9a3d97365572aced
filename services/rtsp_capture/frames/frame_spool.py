"""The frames of one capture that are in the spool, or on their way into it."""

from __future__ import annotations

import asyncio

from models.values import DropReason
from services.rtsp_capture.frames.frame_record import CaptureFacts, PendingFrame
from services.rtsp_capture.frames.slot_ledger import SlotLedger
from services.spool.spool import Spool


class FrameSpool:
    """Reports to the ledger how each frame ended. On the event loop."""

    def __init__(self, spool: Spool, facts: CaptureFacts, ledger: SlotLedger, epoch: int) -> None:
        self._spool = spool
        self._request_id = facts.request_id
        self._ledger = ledger
        self._epoch = epoch
        self._writes: dict[int, asyncio.Task[None]] = {}  # by slot
        ledger.spooled |= spool.follow(self._request_id, self._on_outcome)

    @property
    def writing(self) -> bool:
        return bool(self._writes)

    def put(self, frame: PendingFrame) -> None:
        """Begins to write a frame; the ledger has it as spooled once it is on disk."""
        self._writes[frame.slot] = asyncio.create_task(self._write(frame))

    async def written(self) -> None:
        """Waits until nothing is being written."""
        while self._writes:
            await asyncio.wait(list(self._writes.values()))

    def close(self) -> None:
        self._spool.unfollow(self._request_id, self._on_outcome)

    async def _write(self, frame: PendingFrame) -> None:
        slot = frame.slot
        try:
            kept = await self._spool.put(
                frame.record, frame.file.data, grid_start=frame.grid_start, fps=self._ledger.plan.fps, epoch=self._epoch
            )
            if not kept:
                self._ledger.drop(slot, DropReason.SPOOL_FULL)
        finally:
            if self._writes.get(slot) is asyncio.current_task():
                del self._writes[slot]
                self._ledger.release(slot)

    def _on_outcome(self, slot: int, outcome: str) -> None:
        """What became of a record of this request, whichever owner spooled it."""
        if outcome == "spooled":
            self._ledger.spool(slot)
        elif outcome in ("stored", "exists"):  # exists: by a commit of ours whose outcome was not known, or another's
            self._ledger.store(slot)
        elif outcome in ("dropped", "dead"):
            self._ledger.drop(slot, DropReason.SPOOL_FULL)
        else:
            self._ledger.spooled.discard(slot)
