"""How often the captures that wait are counted: once a second, and each time near the limit."""

from __future__ import annotations

from services.admission.pending import PendingCount


class Rows:
    """A table that holds `waiting` captures."""

    def __init__(self, waiting: int) -> None:
        self.waiting, self.counts = waiting, 0

    async def count(self, at_most: int) -> int:
        self.counts += 1
        return min(self.waiting, at_most)


async def test_far_from_the_limit_rows_are_counted_once_a_second() -> None:
    now, rows = [0.0], Rows(500)
    pending = PendingCount(10_000, lambda: now[0])
    for _ in range(50):
        assert not await pending.at_limit(rows.count)
        pending.added()
    assert rows.counts == 1
    now[0] = 1.0
    assert not await pending.at_limit(rows.count)
    assert rows.counts == 2


async def test_near_the_limit_each_capture_is_counted() -> None:
    rows = Rows(9_890)
    pending = PendingCount(10_000, lambda: 0.0)
    taken = 0
    while not await pending.at_limit(rows.count):
        pending.added()
        rows.waiting += 1
        taken += 1
    assert taken == 110
    assert rows.counts == 1 + 101  # at the beginning, and from 9,900 on each time
    rows.waiting -= 1  # one has begun
    assert not await pending.at_limit(rows.count)


async def test_a_small_limit_is_exact() -> None:
    rows = Rows(1)
    pending = PendingCount(2, lambda: 0.0)
    assert not await pending.at_limit(rows.count)
    rows.waiting = 2  # of another process
    assert await pending.at_limit(rows.count)
