"""How much one caller may ask for: requests and bytes a time, wrong credentials an address, shares of what is bounded.

In memory, one process; on the event loop.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from config import LimitsSettings
from utils.exceptions import RateLimited

Name = Literal["read", "write", "upload-bytes"]


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit and what is left of it: `remaining` of `amount` in `window` seconds, the rest again in `reset` seconds."""

    name: str
    amount: int
    window: int
    remaining: int
    reset: int

    def headers(self) -> dict[str, str]:
        """As draft-ietf-httpapi-ratelimit-headers-11 writes them."""
        return {
            "RateLimit-Policy": f'"{self.name}";q={self.amount};w={self.window}',
            "RateLimit": f'"{self.name}";r={self.remaining};t={self.reset}',
        }


class RateLimits:
    """The LIMITS__ rates. Requests by a moving window, bytes by a fixed one: it counts them in one number."""

    def __init__(self, settings: LimitsSettings) -> None:
        storage = MemoryStorage()
        self._moving, self._fixed = MovingWindowRateLimiter(storage), FixedWindowRateLimiter(storage)
        rates = {"read": settings.READ, "write": settings.WRITE, "upload-bytes": settings.UPLOAD_BYTES}
        self._items: dict[str, RateLimitItem] = {name: parse(rate) for name, rate in rates.items() if rate is not None}
        self._failed = parse(settings.FAILED_LOGINS)

    def request(self, name: Literal["read", "write"], who: str) -> Quota | None:
        """Counts a request; None without a limit. Raises RateLimited, the quota in its details."""
        if (item := self._items.get(name)) is None:
            return None
        return self._counted(self._moving, name, item, who, 1)

    def upload(self, size: int, who: str) -> Quota | None:
        """Counts bytes before they are read. Raises RateLimited."""
        if (item := self._items.get("upload-bytes")) is None or size <= 0:
            return None
        return self._counted(self._fixed, "upload-bytes", item, who, size)

    def failed(self, address: str) -> None:
        """Counts a wrong credential. Raises RateLimited when the address has given too many."""
        if not self._moving.hit(self._failed, "failed", address):
            reset = self._moving.get_window_stats(self._failed, "failed", address).reset_time
            raise RateLimited("Too many wrong credentials from this address.", retry_after=max(1.0, reset - time.time()))

    @staticmethod
    def _counted(
        strategy: MovingWindowRateLimiter | FixedWindowRateLimiter, name: str, item: RateLimitItem, who: str, cost: int
    ) -> Quota:
        # Tested first: a fixed window counts what it refuses, and a caller that tries again would never get through.
        passed = strategy.test(item, name, who, cost=cost) and strategy.hit(item, name, who, cost=cost)
        reset, remaining = strategy.get_window_stats(item, name, who)
        quota = Quota(name, item.amount, item.get_expiry(), max(0, remaining), max(0, math.ceil(reset - time.time())))
        if not passed:
            raise RateLimited(retry_after=max(1, quota.reset), details={"quota": quota})
        return quota


class Holding:
    """What one caller's request holds of a bound."""

    def __init__(self, shares: Shares, key: tuple[str, str], bound: int) -> None:
        self._shares, self._key, self._bound = shares, key, bound
        self.amount = 0

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

    @contextmanager
    def hold(self, what: str, owner: str, bound: int, *, amount: int = 1) -> Iterator[Holding]:
        """`amount` of `bound`, and what it grows to, until the block ends. Raises RateLimited."""
        holding = Holding(self, (what, owner), bound)
        holding.grow(amount)
        try:
            yield holding
        finally:
            self.add((what, owner), -holding.amount)

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
