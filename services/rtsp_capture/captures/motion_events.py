"""From results of motion analysis to motion events. Pure: no clocks, and no pictures, which are `motion`'s (cv2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

WIDTH = 160  # points across the pictures that are compared


@dataclass(frozen=True, slots=True)
class MotionResult:
    """The result for one picture. `area`: share (0-1) of the picture that the largest moving patch covers."""

    moving: bool
    area: float


class MotionEvents:
    """From results, in the order of their times, to motion events.

    One begins when something moves, and ends when nothing has moved for `quiet` seconds.

    All times are capture times in seconds since the epoch.
    """

    def __init__(self, quiet: float, cooldown: float) -> None:
        self._quiet = quiet
        self._cooldown = cooldown
        self._free_at = -math.inf  # when a new motion event may begin
        self.began: float | None = None  # of the current motion event
        self.last = 0.0  # when something moved
        self.score = 0.0  # its largest area

    @property
    def open(self) -> bool:
        return self.began is not None

    def moved(self, at: float, area: float) -> bool:
        """Something moved at `at`; True when a motion event begins with it."""
        if self.began is None:
            if at < self._free_at:
                return False
            self.began, self.last, self.score = at, at, area
            return True
        self.last, self.score = max(self.last, at), max(self.score, area)
        return False

    def still(self, at: float) -> bool:
        """Nothing moved at `at`, or no picture was analysed until then; True when the motion event is over."""
        return self.began is not None and at - self.last >= self._quiet

    def end(self) -> None:
        """The motion event is over."""
        self.began = None
        self._free_at = self.last + self._cooldown
