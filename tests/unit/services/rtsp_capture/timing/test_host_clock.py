"""Receipt times when somebody sets this host's clock: nothing jumps but the wall time, and that once."""

from __future__ import annotations

from itertools import pairwise

import pytest

from services.rtsp_capture.timing.host_clock import STEP_SECONDS, HostClock
from services.rtsp_capture.timing.timestamp_source import TimestampSelector
from utils.metrics import HOST_CLOCK_STEPS

T0 = 1_800_000_000.0
FRAME = 0.04


class Clocks:
    """Both clocks of a host, set by hand."""

    def __init__(self) -> None:
        self.up = 5_000.0
        self.ahead = T0 - 5_000.0
        self.slow = 0.0  # seconds that pass between two readings

    def monotonic(self) -> float:
        self.up += self.slow
        return self.up

    def wall(self) -> float:
        return self.up + self.ahead


def steps() -> float:
    return float(HOST_CLOCK_STEPS._value.get())


@pytest.mark.parametrize("step", [-3600.0, -0.5, 0.5, 3600.0, 1e9])
def test_a_step_moves_wall_time_once_and_steady_time_never(step: float) -> None:
    clocks = Clocks()
    host = HostClock(clocks.monotonic, clocks.wall)
    before = steps()
    assert host.to_wall(host.steady()) == pytest.approx(T0, abs=1e-6)
    clocks.up += 10
    clocks.ahead += step
    assert host.steady() == pytest.approx(T0 + 10, abs=1e-6)
    for _ in range(3):
        assert host.to_wall(host.steady()) == pytest.approx(T0 + 10 + step, abs=1e-6)
    assert steps() - before == 1


def test_less_than_a_step_is_slewed() -> None:
    clocks = Clocks()
    host = HostClock(clocks.monotonic, clocks.wall)
    before = steps()
    clocks.ahead += STEP_SECONDS * 0.9
    made = []
    for _ in range(1000):
        clocks.up += FRAME
        made.append(host.to_wall(host.steady()))
    assert all(FRAME - 1e-6 <= b - a <= FRAME * 1.0006 for a, b in pairwise(made))
    assert made[-1] == pytest.approx(clocks.wall(), abs=1e-3)
    assert steps() == before


def test_a_thread_put_aside_between_two_readings_sees_no_step() -> None:
    clocks = Clocks()
    host = HostClock(clocks.monotonic, clocks.wall)
    before = steps()
    clocks.slow = 0.1
    for _ in range(5):
        host.to_wall(host.steady())
    assert steps() == before


@pytest.mark.parametrize("step", [-60.0, 60.0])
def test_capture_times_follow_a_step_at_once_and_learn_nothing_wrong(step: float) -> None:
    clocks = Clocks()
    host = HostClock(clocks.monotonic, clocks.wall)
    clock = TimestampSelector(FRAME, 1.0)
    stamps = []
    for n in range(1000):
        if n == 500:
            clocks.ahead += step
        clocks.up += FRAME
        clock.observe(n * FRAME, host.steady())
        if clock.receipt.settled:
            stamps.append((n, clock.stamp(n * FRAME, host.shift()[0]).at))
    for n, at in stamps:
        assert at == pytest.approx(T0 + n * FRAME + (step if n >= 500 else 0), abs=1e-4)


def test_a_step_makes_a_camera_in_step_look_off() -> None:
    """One of the two is wrong then, and the camera's own time is kept beside."""
    clocks = Clocks()
    host = HostClock(clocks.monotonic, clocks.wall)
    clock = TimestampSelector(FRAME, 1.0)
    for n in range(1000):
        if n == 500:
            clocks.ahead -= 30
        clocks.up += FRAME
        clock.observe(n * FRAME, host.steady(), T0 + n * FRAME, n // 25)
    stamp = clock.stamp(999 * FRAME, host.shift()[0])
    assert not clock.trusted
    assert stamp.at == pytest.approx(T0 + 999 * FRAME - 30, abs=1e-3)
    assert stamp.camera_time == pytest.approx(T0 + 999 * FRAME, abs=1e-3)
    assert stamp.offset == pytest.approx(30, abs=1e-3)
