"""When stored objects are committed: the first at once, those that come close after it together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from repositories.database import Database
from services.rtsp_capture.frames.ledger_writer import LedgerWriter
from services.rtsp_capture.frames.pending_frame import PendingFrame
from utils.ids import new_id


class Commits:
    """Stands where the database does, and notes the slots of each commit."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    @asynccontextmanager
    async def one_statement(self) -> AsyncIterator[Any]:
        yield SimpleNamespace(ledger=self)

    async def record(self, _: object, records: list[Any], *__: object) -> list[Any]:
        self.batches.append([one.sequence for one in records])
        return [SimpleNamespace(sequence=one.sequence, outcome="stored", storage_path="") for one in records]


def in_hand(slot: int) -> PendingFrame:
    return cast("PendingFrame", SimpleNamespace(record=SimpleNamespace(sequence=slot), since=0.0))


async def committed(most: int) -> list[list[int]]:
    """The commits of ten frames that come 5 ms apart."""
    database, settled = Commits(), asyncio.Event()
    slots: list[int] = []

    def note(item: PendingFrame, outcome: str, path: str | None) -> None:
        slots.append(item.record.sequence)
        if len(slots) == 10:
            settled.set()

    rows = LedgerWriter(
        new_id(), "cam", cast("Database", database), after=30, most=most, due=lambda: 0, idle=lambda first, stop: [],
        settled=note, overdue=lambda item: None,
    )  # fmt: skip
    rows.begin()
    for slot in range(10):
        rows.add(in_hand(slot))
        await asyncio.sleep(0.005)
    async with asyncio.timeout(5):
        await settled.wait()
    await rows.close()
    assert slots == list(range(10))
    return database.batches


async def test_a_commit_without_frames_makes_no_frame_wait() -> None:
    """The grid's first: slots came due, and the row says so before the first frame is there."""
    database, settled = Commits(), asyncio.Event()
    rows = LedgerWriter(
        new_id(), "cam", cast("Database", database), after=30, most=100, due=lambda: 1, idle=lambda first, stop: [],
        settled=lambda *_: settled.set(), overdue=lambda item: None,
    )  # fmt: skip
    rows.begin()
    await asyncio.sleep(0.05)
    assert database.batches == [[]]
    rows.add(in_hand(0))
    async with asyncio.timeout(0.1):
        await settled.wait()
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
