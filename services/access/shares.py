"""How much of what is bounded one caller may hold. In memory, one process; on the event loop."""

from __future__ import annotations

from collections import Counter
from typing import Self

from utils.exceptions import RateLimited


class Holding:
    """What one caller's request holds of a bound, until its block ends."""

    def __init__(self, shares: Shares, key: tuple[str, str], bound: int) -> None:
        self._shares, self._key, self._bound = shares, key, bound
        self.amount = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._shares.add(self._key, -self.amount)

    def grow(self, more: int) -> None:
        """Raises RateLimited when the caller's requests together would hold more than its share; one that holds alone may
        grow past it: its size has its own limit."""
        self._shares.check(self._key, self._bound, self.amount, more)
        self.amount += more
        self._shares.add(self._key, more)


class Shares:
    """How much of each bound one principal holds. `share`: the part that it may; at 1 only the bound itself refuses."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._held: Counter[tuple[str, str]] = Counter()

    @property
    def limited(self) -> bool:
        """Whether one principal may hold less than all."""
        return self._share < 1

    def most(self, bound: int) -> int:
        """What one principal may hold of `bound`: at least one."""
        return max(1, int(bound * self._share))

    def hold(self, what: str, owner: str, bound: int, *, amount: int = 1) -> Holding:
        """`amount` of `bound`, and what it grows to, until its block ends, beginning at once. Raises RateLimited."""
        holding = Holding(self, (what, owner), bound)
        holding.grow(amount)
        return holding

    def check(self, key: tuple[str, str], bound: int, own: int, more: int) -> None:
        """Raises RateLimited when the other requests of this caller hold some, and `more` goes beyond its share."""
        held = self._held.get(key, 0)
        if self.limited and held > own and held + more > self.most(bound):
            raise RateLimited(f"This caller holds its share (LIMITS__SHARE) of {key[0]} already.", retry_after=2)

    def add(self, key: tuple[str, str], amount: int) -> None:
        """Counts without asking; nothing is kept of a caller that holds nothing."""
        self._held[key] += amount
        if self._held[key] <= 0:
            del self._held[key]


UNSHARED = Shares(1.0)  # while no services run, and where nobody is told apart
