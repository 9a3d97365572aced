"""A stream's clock that is slow or fast, and what only looks like one."""

from __future__ import annotations

import random

import pytest

from services.rtsp_capture.timing.clock_rate import ClockRate
from services.rtsp_capture.timing.receipt_clock import ReceiptClock

T0, FPS, DELAY = 1_800_000_000.0, 25.0, 0.004


@pytest.mark.parametrize("rate", [0.84, 0.95, 1.0, 1.08, 1.5])
@pytest.mark.parametrize("fps", [5.0, 25.0])
def test_a_steady_rate_is_found_and_an_even_one_left_alone(rate: float, fps: float) -> None:
    """`rate`: seconds of stream time in a true second."""
    for seed in range(4):
        rng, clock = random.Random(seed), ReceiptClock(parsed=False)
        errors, claims = [], []
        for number in range(round(30 * fps)):
            taken = number / fps
            clock.observe(taken * rate, T0 + taken + DELAY + rng.expovariate(1 / 0.006))
            errors.append(clock.time_of(taken * rate) - (T0 + taken + DELAY))
            claims.append(clock.uncertainty())
        settled = round(8 * fps)
        assert max(map(abs, errors[settled:])) < 0.08, seed
        within = [abs(error) <= claim for error, claim in zip(errors[settled:], claims[settled:], strict=True)]
        assert sum(within) >= 0.99 * len(within), seed


def test_a_link_that_fills_up_and_drains_is_no_clock() -> None:
    """Packets late by up to 0.4 s for some seconds, and early again: the rate stays."""
    for seed in range(10):
        rng, clock = random.Random(seed), ClockRate()
        for number in range(60 * 25):
            taken = number / FPS
            phase = taken % 12
            queue = max(0.0, min(phase - 4, 2.0, 8 - phase)) * 0.2
            clock.observe(taken, T0 + taken + queue + rng.expovariate(1 / 0.006))
            clock.true(taken)
        assert clock.rate == pytest.approx(1.0, abs=0.02)


def test_a_new_timeline_keeps_the_rate() -> None:
    clock = ReceiptClock(parsed=False)
    for number in range(250):
        clock.observe(number / FPS * 0.84, T0 + number / FPS)
    for number in range(250, 300):
        clock.observe(5000 + number / FPS * 0.84, T0 + number / FPS)
    assert clock.time_of(5000 + 299 / FPS * 0.84) == pytest.approx(T0 + 299 / FPS, abs=0.03)
