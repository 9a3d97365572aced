"""A clock that a test moves, for code that is given one."""

from __future__ import annotations


class Clock:
    """Calling it gives `now`, in seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
