"""Orphans judged where they lie: one folder (a camera's day), one day, beside the pass as a whole.

Rows that are missing are missing somewhere: of a camera, of some days. Among all objects of a bucket they would be too
few to be noticed, and their objects would be deleted. Pure; the walk visits a day's folders one after the other, so one
tally of each kind is enough, and goes into the pass's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from services.housekeeping.bucket_walk import DEPTH

_DAY = DEPTH - 1  # of a folder's levels: year, month, day


@dataclass(frozen=True, slots=True)
class Limits:
    """SWEEPER__MIN_ORPHANS and SWEEPER__MAX_ORPHAN_SHARE."""

    min_orphans: int
    max_share: float

    def exceeded(self, seen: int, orphans: int) -> bool:
        return orphans >= self.min_orphans and orphans / max(1, seen) > self.max_share


@dataclass(frozen=True, slots=True)
class Tally:
    """One place's objects so far. `stopped`: too many without rows; nothing more of it is deleted in this pass."""

    name: str = ""
    seen: int = 0
    orphans: int = 0
    stopped: bool = False

    def with_window(self, name: str, seen: int, orphans: int, limits: Limits) -> Tally:
        """With one more window of the place `name`; a new place begins at nothing."""
        old = self if self.name == name else Tally(name)
        found = Tally(name, old.seen + seen, old.orphans + orphans, old.stopped)
        return replace(found, stopped=old.stopped or limits.exceeded(found.seen, found.orphans))


@dataclass(frozen=True, slots=True)
class OrphanPlaces:
    """The folder and the day that the pass is in, and how many orphans it has left where they lie for their sake."""

    folder: Tally = Tally()
    day: Tally = Tally()
    held: int = 0

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> OrphanPlaces:
        """Of the pass's row; the beginning for an empty one."""
        if not stored:
            return cls()
        return cls(Tally(**stored["folder"]), Tally(**stored["day"]), stored["held"])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def stopped(self) -> bool:
        return self.folder.stopped or self.day.stopped

    def with_window(self, upto: str, seen: int, orphans: int, limits: Limits) -> OrphanPlaces:
        """With one more window, of the folder that the key `upto` lies in."""
        levels = upto.split("/")[1 : DEPTH + 1]
        folder = self.folder.with_window("/".join(levels), seen, orphans, limits)
        day = self.day.with_window("/".join(levels[:_DAY]), seen, orphans, limits)
        held = orphans if folder.stopped or day.stopped else 0
        return OrphanPlaces(folder, day, self.held + held)
