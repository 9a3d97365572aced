"""What all streams and all captures of a process may hold together: rings, pictures, calls to thread pools."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from services.rtsp_capture.frames.picture_budget import PictureBudget
from services.rtsp_capture.media.gop_buffer import Packet, Ring
from services.rtsp_capture.media.ring_budget import RingBudget
from utils.metrics import PICTURE_BYTES, POOL_BUSY, RING_BYTES, RING_GOPS_EVICTED
from utils.pool import WorkerPool


def packet(at: float, *, key: bool, size: int, segment: int = 1) -> Packet:
    return Packet(b"x" * size, at, key, at, at, 0.0, segment)


def play(rings: dict[Ring, tuple[int, int]], seconds: float, start: float = 0.0) -> None:
    """All cameras at once, 10 pictures a second; of each: bytes of a picture, pictures of a GOP."""
    for n in range(round(seconds * 10)):
        for ring, (size, gop) in rings.items():
            ring.append(packet(start + n / 10, key=n % gop == 0, size=size))


def held(rings: object) -> int:
    return sum(gop.size for ring in rings for gop in ring)  # type: ignore[attr-defined]


def test_the_rings_that_reach_furthest_back_are_shortened_first() -> None:
    budget = RingBudget(60_000)
    # 1000, 4000 and 10000 bytes a second; the last camera's ring is short by its own bound.
    rings = {
        Ring(30, 10**9, budget): (100, 10),
        Ring(30, 10**9, budget): (400, 10),
        Ring(4, 10**9, budget): (1000, 10),
    }
    cheap, dear, short = rings
    metric, evicted = RING_BYTES._value.get(), RING_GOPS_EVICTED._value.get()
    play(rings, 40)
    assert held(rings) == budget.bytes == sum(ring.bytes for ring in rings) <= 60_000
    assert RING_BYTES._value.get() - metric == budget.bytes
    assert RING_GOPS_EVICTED._value.get() > evicted
    # Those that were cut end at the same length, to a GOP, however much a second costs; the short one was left alone.
    assert abs(cheap.seconds - dear.seconds) <= 1.1
    assert cheap.seconds < 6
    assert short.seconds > 3.8
    assert budget.bytes > 60_000 - 4000 - 1000  # no more was taken than had to be

    for ring in rings:
        ring.clear()
    assert budget.bytes == 0
    assert RING_BYTES._value.get() == metric


def test_no_ring_loses_its_newest_group() -> None:
    budget = RingBudget(10_000)
    rings = {Ring(30, 10**9, budget): (100 * (n + 1), 20) for n in range(20)}
    play(rings, 7)
    for ring in rings:
        (gop,) = ring
        assert [each.timestamp for each in gop.packets] == pytest.approx([6 + n / 10 for n in range(10)])
        assert ring.newest() is not None
    assert budget.bytes == held(rings) > 10_000


def test_a_budget_that_newest_groups_exceed_costs_no_search_a_packet(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = RingBudget(1000)
    rings = {Ring(30, 10**9, budget): (1000, 100) for _ in range(50)}
    looked = 0
    seconds = Ring.seconds.fget  # type: ignore[attr-defined]

    def counting(ring: Ring) -> float:
        nonlocal looked
        looked += 1
        return seconds(ring)  # type: ignore[no-any-return]

    monkeypatch.setattr(Ring, "seconds", property(counting))
    play(rings, 9)
    assert looked < 50 * 50 * 3  # each of the 50 keyframes looks at 50 rings, and no packet after it


def test_a_ring_that_is_not_used_any_more_is_forgotten() -> None:
    budget = RingBudget(5000)
    left = Ring(30, 10**9, budget)
    play({left: (100, 10)}, 3)
    left.clear()
    other = Ring(30, 10**9, budget)
    play({other: (100, 10)}, 20)
    assert other.bytes == budget.bytes
    gone = weakref.ref(left)
    del left
    gc.collect()
    assert gone() is None


def test_a_new_connection_and_a_group_too_large_keep_the_sum_right() -> None:
    budget = RingBudget(10**9)
    ring = Ring(30, 3000, budget)
    play({ring: (100, 10)}, 2)
    ring.append(packet(0.0, key=True, size=70, segment=2))
    assert budget.bytes == ring.bytes == 70
    ring.append(packet(0.1, key=False, size=3000, segment=2))
    assert budget.bytes == ring.bytes == 0


def test_an_evicted_group_is_not_kept_by_the_one_after_it() -> None:
    """Unless pictures shown before the keyframe refer to it (open GOP)."""
    closed, opened = Ring(1, 10**9), Ring(1, 10**9)
    for n in range(60):
        closed.append(packet(n / 10, key=n % 10 == 0, size=10))
        leading = n > 0 and n % 10 == 1
        opened.append(packet(n / 10 - (0.15 if leading else 0), key=n % 10 == 0, size=10))
    assert [len(gop.previous) for gop in closed] == [0] * len(list(closed))
    assert all(gop.previous for gop in opened)


async def test_the_pictures_that_waited_longest_go_and_those_being_stored_stay() -> None:
    budget = PictureBudget(100, 2)
    given_up: list[str] = []
    metric = PICTURE_BYTES._value.get()
    first = budget.hold(40, lambda: given_up.append("first"))
    second = budget.hold(40, lambda: given_up.append("second"))
    async with budget.storing(first):
        budget.hold(40, lambda: given_up.append("third"))
        assert given_up == ["second"]
        assert budget.bytes == PICTURE_BYTES._value.get() - metric == 80
    fourth = budget.hold(40, lambda: given_up.append("fourth"))
    assert given_up == ["second", "first"]  # tried, failed, and the oldest again
    huge = budget.hold(1000, lambda: given_up.append("huge"))
    assert given_up == ["second", "first", "third", "fourth"]
    assert budget.bytes == 1000  # the newest stays, however large
    for each in (first, second, fourth, huge, huge):
        budget.free(each)
    assert budget.bytes == 0 == PICTURE_BYTES._value.get() - metric


async def test_at_most_so_many_are_stored_at_once() -> None:
    budget = PictureBudget(10**6, 3)
    now = most = 0

    async def store() -> None:
        nonlocal now, most
        held = budget.hold(10, lambda: None)
        async with budget.storing(held):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1
        budget.free(held)

    await asyncio.gather(*(store() for _ in range(20)))
    assert (most, budget.bytes) == (3, 0)


async def test_a_cancelled_call_leaves_the_pool_with_all_that_it_was_given() -> None:
    class Picture:
        pass

    pool, go = WorkerPool("test-pool", 2), threading.Event()
    ran: list[int] = []
    running = [asyncio.ensure_future(pool.run(go.wait, 10)) for _ in range(2)]
    await asyncio.sleep(0.01)
    pictures = [Picture() for _ in range(50)]
    references = [weakref.ref(picture) for picture in pictures]

    def work(picture: Picture) -> None:
        ran.append(id(picture))

    waiting = [asyncio.ensure_future(pool.run(work, picture)) for picture in pictures]
    await asyncio.sleep(0)
    assert POOL_BUSY.labels(pool="test-pool")._value.get() == 52
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)  # not gather, whose list of exceptions outlives it for a while (CPython 3.11)
    del task, waiting, pictures
    gc.collect()
    assert [reference for reference in references if reference() is not None] == []
    assert POOL_BUSY.labels(pool="test-pool")._value.get() == 2
    # A running call that nobody waits for any more keeps its thread: no other is queued behind it.
    running[0].cancel()
    await asyncio.gather(running[0], return_exceptions=True)
    late = asyncio.ensure_future(pool.run(threading.get_ident))
    await asyncio.sleep(0.05)
    assert pool._executor._work_queue.qsize() == 0
    go.set()
    assert await late
    assert await running[1]
    assert ran == []
    await pool.close()
