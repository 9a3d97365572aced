"""Stream time to wall-clock time: what is left of jitter, bursts, B-pictures, restarts."""

import random
from itertools import pairwise

import pytest

from services.rtsp_capture.timing.receipt_clock import SLEW, STEP_SECONDS, ReceiptClock
from tests.unit.services.rtsp_capture.grid.test_sampler import T0, coded

DELAY = 0.08  # of camera and network, the same for all


def receipts(numbers: list[int], fps: float, rng: random.Random, jitter: float) -> list[tuple[float, float]]:
    """(pts, receipt) in decoding order: sent when encoded, never before the former, handed over one frame late."""
    lag = max(n - i for i, n in enumerate(numbers))  # pictures are sent at an even pace and after they were taken
    made = []
    last = 0.0
    for index, number in enumerate(numbers):
        last = max(last, T0 + (index + lag + 1) / fps + DELAY + rng.expovariate(1 / jitter))
        made.append((number / fps, last))
    return made


@pytest.mark.parametrize("b", [0, 1, 2, 3])
@pytest.mark.parametrize("fps", [8.0, 25.0, 30.0])
def test_jitter_is_taken_out_and_the_parsers_frame_too(b: int, fps: float) -> None:
    for seed in range(5):
        rng = random.Random(seed)
        clock = ReceiptClock(rng.choice([None, 1 / fps, 0.5 / fps]))  # OpenCV says twice the rate at times
        numbers = [n for n, _ in coded(round(20 * fps), 25, b)]
        errors = []
        for pts, received in receipts(numbers, fps, rng, jitter=0.012):
            clock.observe(pts, received)
            if clock.settled:
                errors.append(clock.time_of(pts) - (T0 + pts + DELAY))
        assert clock.frame_duration == pytest.approx(1 / fps, abs=1e-6), f"seed {seed}"
        assert max(abs(error) for error in errors) < 0.03, f"seed {seed}"
        assert max(abs(error) for error in errors[len(errors) // 2 :]) < 0.012, f"seed {seed}"
        assert clock.uncertainty() < 0.5 / fps + STEP_SECONDS


def test_the_first_burst_is_waited_out() -> None:
    """A camera that repeats its current group: 20 pictures within a few milliseconds, then live ones."""
    clock = ReceiptClock(0.04)
    unsettled = 0
    for n in range(60):
        live = T0 + (n + 1) * 0.04 + DELAY
        clock.observe(n * 0.04, max(live, T0 + 21 * 0.04 + DELAY + n * 1e-4))
        unsettled += not clock.settled
        if clock.settled:
            assert clock.time_of(0.0) == pytest.approx(T0 + DELAY, abs=0.003)
    assert 20 <= unsettled <= 27


@pytest.mark.parametrize("b", [0, 2, 3])
def test_a_busy_start_does_not_pass_for_the_end_of_the_burst(b: int) -> None:
    """Camera and host are 56 ms behind for a moment, evenly. Of B-pictures nothing can be learnt: they are never early."""
    clock = ReceiptClock(0.04)
    late = 8 if b else 4  # packets; as long as three pictures of which something can be learnt, at most
    numbers = [n for n, _ in coded(60, 25, b)]
    for index, (pts, received) in enumerate(receipts(numbers, 25.0, random.Random(0), jitter=1e-6)):
        clock.observe(pts, received + (0.056 if index < late else 0.0))
        if clock.settled:
            assert clock.time_of(pts) == pytest.approx(T0 + pts + DELAY, abs=0.003), index
    assert clock.settled


def test_a_slow_camera_is_not_waited_for_long() -> None:
    clock = ReceiptClock(1.0)
    clock.observe(0.0, T0)
    clock.observe(1.0, T0 + 1.0)
    assert clock.settled


def settled(clock: ReceiptClock, count: int = 300, start: float = T0, pts: float = 0.0) -> tuple[float, float]:
    """Feeds `count` even packets at 25 a second; returns (pts, receipt) of the next."""
    for n in range(count):
        clock.observe(pts + n * 0.04, start + n * 0.04)
    assert clock.settled
    return pts + count * 0.04, start + count * 0.04


def test_a_small_drift_is_slewed() -> None:
    clock = ReceiptClock(0.04)
    pts, at = settled(clock)
    before = clock.time_of(0.0)
    for n in range(25):  # one second, 5 ms earlier than the envelope
        clock.observe(pts + n * 0.04, at + n * 0.04 - 0.005)
    assert 0 < before - clock.time_of(0.0) <= SLEW * 1.05


def test_the_first_pictures_of_a_fast_clock_are_known_to_be_unsure() -> None:
    """8 % fast: each packet is earlier than thought, as in a burst that does not end, until nothing more is waited for."""
    clock, number = ReceiptClock(0.04, parsed=False), 0
    while not clock.settled:
        clock.observe(number * 0.04 * 1.08, T0 + number * 0.04 + DELAY)
        number += 1
    off = abs(clock.time_of(0.0) - T0 - DELAY)
    assert 0.06 < off <= clock.uncertainty()
    clock.observe(number * 0.04 * 1.08, T0 + number * 0.04 + DELAY)
    assert clock.uncertainty() < 0.06  # of the later ones


def test_a_large_difference_is_stepped_once_a_whole_window_says_so() -> None:
    clock = ReceiptClock(0.04)
    pts, at = settled(clock)
    before = clock.time_of(0.0)
    for n in range(240):  # 9.6 s of delay: the window still knows better
        clock.observe(pts + n * 0.04, at + n * 0.04 + 0.1)
        assert abs(clock.time_of(0.0) - before) < 0.001
    for n in range(240, 300):
        clock.observe(pts + n * 0.04, at + n * 0.04 + 0.1)
    assert clock.time_of(0.0) - before == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize("restart", [0.0, 500.0], ids=["at 0 again", "far ahead"])
def test_a_new_timeline_begins_anew(restart: float) -> None:
    clock = ReceiptClock(0.04)
    _, at = settled(clock)
    clock.observe(restart, at)
    assert not clock.settled
    assert clock.time_of(restart) == pytest.approx(at - 0.04)
    for n in range(1, 10):
        clock.observe(restart + n * 0.04, at + n * 0.04)
    assert clock.settled
    assert clock.time_of(restart) == pytest.approx(at - 0.04)


def test_a_pause_is_no_new_timeline() -> None:
    clock = ReceiptClock(0.04)
    pts, at = settled(clock)
    clock.observe(pts + 30, at + 30)
    assert clock.settled
    assert clock.time_of(pts + 30) == pytest.approx(at + 30 - 0.04, abs=1e-6)


def test_the_wall_clock_may_be_set_while_it_runs() -> None:
    for step in (-3600.0, 3600.0):
        clock = ReceiptClock(0.04)
        pts, at = settled(clock)
        for n in range(10):
            clock.observe(pts + n * 0.04, at + step + n * 0.04)
        assert clock.time_of(pts) == pytest.approx(at + step - 0.04, abs=0.001)


def test_time_does_not_run_backwards_under_jitter() -> None:
    rng = random.Random(3)
    clock = ReceiptClock(0.04)
    times = []
    for pts, received in receipts(list(range(1000)), 25.0, rng, jitter=0.02):
        clock.observe(pts, received)
        if clock.settled:
            times.append(clock.time_of(pts))
    assert all(b > a for a, b in pairwise(times))


def test_motion_jpeg_waits_for_no_next_picture() -> None:
    """Handed over when its last packet comes: nothing is subtracted."""
    late, at_once = ReceiptClock(0.04), ReceiptClock(0.04, parsed=False)
    for clock in (late, at_once):
        for number in range(20):
            clock.observe(number / 25, T0 + number / 25 + DELAY)
    assert at_once.time_of(0.4) == pytest.approx(T0 + 0.4 + DELAY)
    assert late.time_of(0.4) == pytest.approx(T0 + 0.4 + DELAY - 0.04)
