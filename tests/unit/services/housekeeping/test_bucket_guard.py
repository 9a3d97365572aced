"""What may be done to the bucket, by what the last poll found; how old a poll may be."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from services.housekeeping.bucket_guard import FRESH, BucketGuard
from services.housekeeping.bucket_marker import BucketMarker, Ownership
from tests.kits.clock import Clock
from utils.exceptions import BucketNotOurs, DatabaseUnavailable, IngestionException, StorageUnavailable
from utils.metrics import BUCKET_STATE


class Marker:
    """Says what it is told to; counts how often it is asked."""

    def __init__(self, state: Ownership) -> None:
        self.state: Ownership | Exception = state
        self.polls = 0

    async def check(self) -> Ownership:
        self.polls += 1
        await asyncio.sleep(0)
        if isinstance(self.state, Exception):
            raise self.state
        return self.state


def guard_on(marker: Marker, clock: Clock | None = None) -> BucketGuard:
    return BucketGuard(cast(BucketMarker, marker), clock or Clock())


async def allowed(what: Any) -> bool:
    try:
        await what()
    except BucketNotOurs:
        return False
    return True


def test_what_is_refused_is_an_outage_of_the_store_to_captures_and_clients() -> None:
    assert issubclass(BucketNotOurs, StorageUnavailable)
    assert BucketNotOurs.code == "storage_unavailable"


@pytest.mark.parametrize(
    ("state", "writes", "deletes"),
    [
        (Ownership.OURS, True, True),
        (Ownership.COPY, True, False),
        (Ownership.FOREIGN, False, False),
        (Ownership.UNCLAIMED, False, False),
    ],
)
async def test_what_each_state_allows(state: Ownership, writes: bool, deletes: bool) -> None:
    guard = guard_on(Marker(state))
    assert (await allowed(guard.may_write), await allowed(guard.may_delete)) == (writes, deletes)
    values = {each: BUCKET_STATE.labels(state=each.value)._value.get() for each in Ownership}
    assert [each for each, value in values.items() if value] == [state]
    if deletes:
        await guard.check()
    else:
        with pytest.raises(IngestionException, match="bucket adopt"):
            await guard.check()


async def test_one_poll_serves_many_and_nothing_goes_before_it() -> None:
    marker = Marker(Ownership.OURS)
    guard = guard_on(marker)
    with pytest.raises(IngestionException, match="not been read"):
        await guard.check()
    await asyncio.gather(*(guard.may_write() for _ in range(20)), guard.may_delete())
    for _ in range(20):
        await guard.may_write()
        await guard.may_delete()
    assert marker.polls == 1


@pytest.mark.parametrize("away", [StorageUnavailable(), DatabaseUnavailable()])
async def test_before_the_first_poll_nothing_is_written(away: IngestionException) -> None:
    marker = Marker(Ownership.OURS)
    marker.state = away
    guard = guard_on(marker)
    for ask in (guard.may_write, guard.may_delete):
        with pytest.raises(type(away)):
            await ask()


async def test_a_delete_does_not_go_by_an_old_poll() -> None:
    marker, clock = Marker(Ownership.OURS), Clock()
    guard = guard_on(marker, clock)
    await guard.may_delete()
    marker.state = Ownership.COPY
    clock.now += FRESH
    assert not await allowed(guard.may_delete)
    marker.state = DatabaseUnavailable()
    clock.now += FRESH
    with pytest.raises(DatabaseUnavailable):
        await guard.may_delete()
    await guard.may_write()  # no row is committed meanwhile, and pictures are not lost
    marker.state = Ownership.FOREIGN
    await guard.poll()
    assert not await allowed(guard.may_write)
    marker.state = Ownership.OURS
    await guard.poll()
    assert await allowed(guard.may_write)
    assert await allowed(guard.may_delete)
