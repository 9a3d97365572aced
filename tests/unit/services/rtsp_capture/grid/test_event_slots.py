"""From events to slots: which slots an event has, and that overlapping ones share them."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from services.rtsp_capture.grid.event_slots import WantedSlots, event_slots

T0 = 1_795_376_903.8


@pytest.mark.parametrize(
    ("start", "end", "fps", "slots", "expected"),
    [
        (10.0, 12.0, 5.0, None, range(50, 61)),  # both ends belong to it
        (10.01, 12.19, 5.0, None, range(51, 61)),
        (10.0, 10.0, 5.0, None, range(50, 51)),
        (10.05, 10.05, 5.0, None, range(50, 51)),  # none is due in it: the nearest
        (10.15, 10.15, 5.0, None, range(51, 52)),
        (-2.0, 1.0, 5.0, None, range(6)),  # before the grid there are no slots
        (-9.0, -5.0, 5.0, None, range(0)),
        (8.0, 12.0, 5.0, 50, range(40, 50)),  # nor after it
        (11.0, 12.0, 5.0, 50, range(0)),
        (3.0, 9.0, 0.1, None, range(1, 2)),  # a slot in ten seconds
    ],
)
def test_the_slots_of_an_event(start: float, end: float, fps: float, slots: int | None, expected: range) -> None:
    found = event_slots(T0 + start, T0 + end, grid_start=T0, fps=fps, slots=slots)
    assert list(found) == list(expected)


def test_an_event_that_lasts_takes_no_slot_that_it_may_outgrow() -> None:
    assert not event_slots(T0 + 3, T0 + 4, grid_start=T0, fps=0.1, slots=None, at_least_one=False)


def test_every_slot_due_in_an_event_is_its_and_no_other() -> None:
    rng = random.Random(4)
    for _ in range(2000):
        fps, slots = rng.choice([0.1, 1.0, 2.7, 25.0]), rng.choice([None, 40])
        start = rng.uniform(-20, 60)
        end = start + rng.uniform(0, 30)
        found = event_slots(T0 + start, T0 + end, grid_start=T0, fps=fps, slots=slots)
        inside = [k for k in range(slots or 3000) if start - 1e-5 <= k / fps <= end + 1e-5]
        if inside:
            assert list(found) == inside
        else:
            assert len(found) <= 1


def test_microseconds_that_the_database_rounds_off_change_no_slot() -> None:
    """An event ends with a picture, and pictures lie on the grid: what is wanted has to be what its row says."""
    rng = random.Random(6)
    for _ in range(5000):
        fps = rng.choice([1.0, 5.0, 12.5, 25.0])
        grid = stored(T0 + rng.uniform(0, 1))
        start = grid + (25 + rng.randrange(100)) / fps + rng.uniform(-5e-7, 5e-7)
        end = start + rng.randrange(100) / fps + rng.uniform(-5e-7, 5e-7)
        known = event_slots(start - 1, end + 1, grid_start=grid, fps=fps, slots=None)
        told = event_slots(stored(start) - 1, stored(end) + 1, grid_start=grid, fps=fps, slots=None)
        assert known == told


def stored(at: float) -> float:
    return datetime.fromtimestamp(at, UTC).timestamp()


def test_a_growing_event_only_adds() -> None:
    """What was wanted while it lasted is its when it is over: the ledger never takes a slot back."""
    rng = random.Random(5)
    for _ in range(300):
        wanted, start, end = WantedSlots(), rng.uniform(0, 50), 0.0
        end = start
        for _ in range(rng.randrange(1, 8)):
            wanted.claim(event_slots(T0 + start - 1, T0 + end, grid_start=T0, fps=2.7, slots=None, at_least_one=False))
            end += rng.uniform(0, 3)
        whole = event_slots(T0 + start - 1, T0 + end, grid_start=T0, fps=2.7, slots=None)
        wanted.claim(whole)
        assert wanted.below(10_000) == list(whole)


def test_overlapping_events_want_each_slot_once() -> None:
    rng = random.Random(6)
    wanted, claimed = WantedSlots(), []
    windows = [range(first := rng.randrange(300), first + rng.randrange(40)) for _ in range(60)]
    for window in windows:
        claimed += wanted.claim(window)
    union = set().union(*windows)
    assert sorted(claimed) == sorted(union)
    assert wanted.idle(0, 400) == [slot for slot in range(400) if slot not in union]
    assert all((slot in wanted) == (slot in union) for slot in range(400))


def test_what_no_event_can_reach_is_forgotten_and_never_wanted_again() -> None:
    wanted = WantedSlots()
    wanted.claim(range(100))
    wanted.forget(90)
    assert wanted.below(1000) == list(range(90, 100))
    assert wanted.claim(range(80, 105)) == list(range(100, 105))
    wanted.forget(10)  # never back
    assert wanted.claim(range(50, 60)) == []
