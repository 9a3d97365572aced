"""This host's clock for receipt times: it runs on the monotonic clock, and notices when the wall clock is set.

Packets are stamped in steady time, which never jumps, so that what is learnt about a stream (`receipt_clock`) stays true
across a step. Only a picture's capture time is brought to wall time, by the sum of the steps until then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from utils.logger import get_logger
from utils.metrics import HOST_CLOCK_STEPS

log = get_logger(__name__)

STEP_SECONDS = 0.020  # between both clocks that are a step; less is what reading them costs
_SLEW = 500e-6  # seconds a second, for less than a step
_MAX_READ_SECONDS = 0.002  # for reading both clocks: beyond, the thread was suspended between them


class HostClock:
    """Steady seconds (since the epoch, by the wall clock at the start), and wall seconds. For all threads."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._guard = threading.Lock()
        self._origin = wall() - monotonic()
        self._steps = 0.0  # what wall time is ahead of steady time: by having been set,
        self._slewed = 0.0  # and by having been drawn along
        self._compared_at = monotonic()

    def steady(self) -> float:
        """Never jumps; differences are true durations."""
        return self._monotonic() + self._origin

    def to_wall(self, steady: float) -> float:
        """The wall time of a steady time, by the wall clock as it is set now."""
        return steady + self.shift()[0]

    def shift(self) -> tuple[float, float]:
        """(Seconds that wall time, as the wall clock is set now, is ahead of steady time, and of these the steps.)"""
        with self._guard:
            self._compare_clocks()
            return self._steps + self._slewed, self._steps

    @property
    def steps(self) -> float:
        """Seconds by which the wall clock was set since the start, all together, as far as `to_wall` knows."""
        with self._guard:
            return self._steps

    def unset(self, steps: float) -> float:
        """What the wall clock would show now had it not been set since `steps` had this value."""
        with self._guard:
            self._compare_clocks()
            return self.steady() + steps + self._slewed

    def _compare_clocks(self) -> None:
        before = self._monotonic()
        wall = self._wall()
        after = self._monotonic()
        if after - before > _MAX_READ_SECONDS:
            return
        moved = wall - (before + after) / 2 - self._origin - self._steps - self._slewed
        if abs(moved) > STEP_SECONDS:
            self._steps += moved
            HOST_CLOCK_STEPS.inc()
            log.warning("host_clock_stepped", seconds=round(moved, 3))
        else:
            most = _SLEW * (before - self._compared_at)
            self._slewed += min(most, max(-most, moved))
        self._compared_at = before


HOST = HostClock()
