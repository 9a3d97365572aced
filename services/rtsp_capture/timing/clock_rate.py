"""By how much a stream's time runs slower or faster than ours. Pure.

Jitter only makes packets late, so the earliest packet of each half second lies near the true line of stream time over
receipt. Where these leave the line of equal rates steadily, and lie on another one, that is the stream's rate. A link
that fills up looks the same for some seconds, but not for long, and then lies on no line.
"""

from __future__ import annotations

from collections import deque
from itertools import combinations
from statistics import median

GROUP_SECONDS = 0.5
GROUPS = 20  # that are looked at: 10 s at 25 frames a second
LEAST_GROUPS = 6
LEAST_SECONDS = 2.5
LEAST_RISE = 0.06  # seconds by which the clocks must have moved apart
_LINE = 0.15  # of the rise: how far the points may lie from their line,
_LEAST_LINE = 0.008  # or so many seconds
_MAX_RATE = 4.0
Point = tuple[float, float]  # stream time, receipt


class ClockRate:
    """Of one connection. One thread calls it, packet by packet."""

    def __init__(self) -> None:
        self.rate = 1.0  # true seconds in a second of stream time
        self._origin: Point | None = None  # stream time, and true stream time, from which the rate holds
        self.restart()

    def restart(self) -> None:
        """Another timeline of the same camera: its rate is likely to be the same."""
        self._points: deque[Point] = deque(maxlen=GROUPS)
        self._group: Point | None = None  # the earliest packet of the group under way
        self._ends = 0.0
        self._origin = None

    def true(self, pts: float) -> float:
        """Stream time at the true rate."""
        if self._origin is None:
            self._origin = (pts, pts)
        return self._origin[1] + (pts - self._origin[0]) * self.rate

    def points(self) -> list[Point]:
        """The earliest packets of the last groups, in order."""
        return [*self._points, *([self._group] if self._group is not None else [])]

    def observe(self, pts: float, received: float) -> bool:
        """The next packet; whether the rate is another now."""
        if self._group is None:
            self._begin(pts, received)
            return False
        if received < self._ends:
            if self._lateness(pts, received) < self._lateness(*self._group):
                self._group = (pts, received)
            return False
        self._points.append(self._group)
        self._begin(pts, received)
        return self._judge()

    def _begin(self, pts: float, received: float) -> None:
        self._group, self._ends = (pts, received), received + GROUP_SECONDS

    def _lateness(self, pts: float, received: float) -> float:
        return received - self.true(pts)

    def _judge(self) -> bool:
        points = self._points
        span = points[-1][1] - points[0][1]
        if len(points) < LEAST_GROUPS or span < LEAST_SECONDS:
            return False
        if abs(self._lateness(*points[-1]) - self._lateness(*points[0])) < LEAST_RISE:
            return False
        at = [(self.true(pts), self._lateness(pts, received)) for pts, received in points]
        slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(at, 2) if b[0] - a[0] > GROUP_SECONDS / 2]
        if not slopes:
            return False
        slope = median(slopes)
        rise = abs(slope) * (at[-1][0] - at[0][0])
        base = median(late - slope * true for true, late in at)
        astray = max(abs(late - slope * true - base) for true, late in at)
        rate = self.rate * (1 + slope)
        if rise < LEAST_RISE or astray > max(_LEAST_LINE, _LINE * rise) or not 1 / _MAX_RATE < rate < _MAX_RATE:
            return False
        last = points[-1][0]
        self._origin, self.rate = (last, self.true(last)), rate
        return True
