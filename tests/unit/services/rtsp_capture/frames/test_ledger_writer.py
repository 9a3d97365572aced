"""When stored objects are committed: the first at once, those that come close after it together."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from models.values import FrameRecord, Sampling
from repositories.database import Database
from repositories.ledger import Recorded
from services.rtsp_capture.frames.encodings import AsJpeg
from services.rtsp_capture.frames.frame_record import CaptureFacts, PendingFrame
from services.rtsp_capture.frames.ledger_writer import LedgerWriter
from services.rtsp_capture.frames.slot_ledger import GridPlan, SlotLedger
from utils.ids import new_id


class Commits:
    """Stands where the database does, and notes the slots of each commit."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    async def record(self, _: object, records: list[Any], *__: object) -> list[Any]:
        self.batches.append([one.sequence for one in records])
        return [SimpleNamespace(sequence=one.sequence, outcome="stored", storage_path="") for one in records]


def pending(slot: int) -> PendingFrame:
    record = cast("FrameRecord", SimpleNamespace(sequence=slot))
    return PendingFrame(record, cast(Any, None), datetime.now(UTC), 0.0, cast(Any, None))


def begun_ledger() -> SlotLedger:
    """Of a grid whose first slot is due, and whose origin the row has."""
    ledger = SlotLedger(GridPlan(1.0, Sampling.EXACT, 1), lambda: 0.0, "gate")
    ledger.begin_grid(0.0)
    ledger.grid_saved(0.0)
    return ledger


def writer(database: Commits, ledger: SlotLedger, most: int) -> LedgerWriter:
    facts = CaptureFacts(new_id(), "cam", AsJpeg(90), {})
    return LedgerWriter(facts, cast("Database", database), ledger, max_wait=30, max_waiting=most)


async def committed(most: int) -> list[list[int]]:
    """The commits of ten frames that come 5 ms apart."""
    database = Commits()
    rows = writer(database, begun_ledger(), most)
    outcomes: list[asyncio.Task[Recorded]] = []
    for slot in range(10):
        outcomes.append(asyncio.create_task(rows.record(pending(slot))))
        await asyncio.sleep(0.005)
    async with asyncio.timeout(5):
        assert [(await one).sequence for one in outcomes] == list(range(10))
    await rows.close()
    return [batch for batch in database.batches if batch]


async def test_a_commit_without_frames_makes_no_frame_wait() -> None:
    """The grid's first: slots came due, and the row says so before the first frame is there."""
    database = Commits()
    rows = writer(database, begun_ledger(), 100)
    await asyncio.sleep(0.05)
    assert database.batches == [[]]
    async with asyncio.timeout(0.1):
        assert (await rows.record(pending(0))).outcome == "stored"
    await rows.close()


async def test_the_first_goes_at_once_and_those_close_after_it_together() -> None:
    batches = await committed(100)
    assert batches[0] == [0]
    assert len(batches) <= 3


@pytest.mark.parametrize("most", [1, 3])
async def test_no_more_wait_than_may(most: int) -> None:
    """Else a small FRAME_BUFFER_SIZE would be full of frames that only wait for each other."""
    batches = await committed(most)
    assert max(map(len, batches)) <= most
