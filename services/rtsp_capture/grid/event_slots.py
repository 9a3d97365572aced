"""From events to slots. Pure: an event's window on the grid, and which slots any event has wanted."""

from __future__ import annotations

import math
from collections.abc import Iterable

_EPSILON = 1e-5  # seconds: rounding of floating point and of the database's microseconds, not time


def event_slots(
    start: float, end: float, *, grid_start: float, fps: float, slots: int | None, at_least_one: bool = True
) -> range:
    """The slots due in [start, end] (seconds since the epoch, rolls included).

    When none is, the one nearest to the middle, unless the event lasts (`at_least_one` False) and may still reach one.
    Only slots of the grid (0 .. slots - 1): an event outside it has none.
    """
    first = math.ceil((start - grid_start - _EPSILON) * fps)
    last = math.floor((end - grid_start + _EPSILON) * fps)
    if last < first and at_least_one:
        first = last = math.floor(((start + end) / 2 - grid_start) * fps + 0.5)
    first = max(0, first)
    stop = last + 1 if slots is None else min(last + 1, slots)
    return range(first, max(first, stop))


class WantedSlots:
    """The slots that belong to an event. `forget` bounds what is kept: slots that no event can reach any more."""

    def __init__(self) -> None:
        self._slots: set[int] = set()
        self._kept_from = 0

    def claim(self, window: Iterable[int]) -> list[int]:
        """Adds an event's slots; returns those that no event had wanted before."""
        fresh = [slot for slot in window if slot >= self._kept_from and slot not in self._slots]
        self._slots.update(fresh)
        return fresh

    def __contains__(self, slot: int) -> bool:
        return slot in self._slots

    def below(self, stop: int) -> list[int]:
        """The kept ones below `stop`."""
        return sorted(slot for slot in self._slots if slot < stop)

    def idle(self, first: int, stop: int) -> list[int]:
        """Of the slots first .. stop - 1 those that belong to no event."""
        return [slot for slot in range(first, stop) if slot not in self._slots]

    def forget(self, before: int) -> None:
        """No event can want slots below `before` any more."""
        if before > self._kept_from:
            self._kept_from = before
            self._slots = {slot for slot in self._slots if slot >= before}
