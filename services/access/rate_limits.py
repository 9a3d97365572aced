"""How much one caller may ask for: requests and bytes a time, wrong credentials an address.

Counted in Redis for all processes together where there is one, else, and while it is away, in this process's memory. On the
event loop.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from limits import RateLimitItem, aio, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter

from config import LimitsSettings
from services.redis.away import RedisAway
from utils.exceptions import RateLimited

if TYPE_CHECKING:
    from services.redis.link import RedisLink

Name = Literal["read", "write", "upload-bytes", "failed"]
_PREFIX = "trackshift:limits"


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


class Counted(NamedTuple):
    """Whether it passed, when there is room again (Unix seconds), how much is left."""

    passed: bool
    reset: float
    remaining: int


class RateLimits:
    """The LIMITS__ rates. Requests by a moving window, bytes by a fixed one: it counts them in one number.

    `key` (64 bytes at most) is the database's: processes on another one count apart, and Redis holds no name of a caller.
    """

    def __init__(self, settings: LimitsSettings, redis: RedisLink | None = None, key: bytes = b"") -> None:
        rates = {"read": settings.READ, "write": settings.WRITE, "upload-bytes": settings.UPLOAD_BYTES}
        self._items: dict[str, RateLimitItem] = {name: parse(rate) for name, rate in rates.items() if rate is not None}
        self._failed = parse(settings.FAILED_LOGINS)
        self._memory = _Memory()
        self._shared = None if redis is None else _Shared(redis, key)

    async def request(self, name: Literal["read", "write"], who: str) -> Quota | None:
        """Counts a request; None without a limit. Raises RateLimited, the quota in its details."""
        if (item := self._items.get(name)) is None:
            return None
        return _judged(name, item, await self._count(name, item, who, 1))

    async def upload(self, size: int, who: str) -> Quota | None:
        """Counts bytes before they are read. Raises RateLimited."""
        if (item := self._items.get("upload-bytes")) is None or size <= 0:
            return None
        return _judged("upload-bytes", item, await self._count("upload-bytes", item, who, size))

    async def failed(self, address: str) -> None:
        """Counts a wrong credential. Raises RateLimited when the address has given too many."""
        counted = await self._count("failed", self._failed, address, 1)
        if not counted.passed:
            after = max(1.0, counted.reset - time.time())
            raise RateLimited("Too many wrong credentials from this address.", retry_after=after)

    async def _count(self, name: Name, item: RateLimitItem, who: str, cost: int) -> Counted:
        if self._shared is not None:
            try:
                return await self._shared.count(name, item, who, cost)
            except RedisAway:
                pass
        return self._memory.count(name, item, who, cost)


def _judged(name: str, item: RateLimitItem, counted: Counted) -> Quota:
    reset = max(0, math.ceil(counted.reset - time.time()))
    quota = Quota(name, item.amount, item.get_expiry(), max(0, counted.remaining), reset)
    if not counted.passed:
        raise RateLimited(retry_after=max(1, quota.reset), details={"quota": quota})
    return quota


class _Memory:
    """Counts of this process."""

    def __init__(self) -> None:
        storage = MemoryStorage()
        self._moving, self._fixed = MovingWindowRateLimiter(storage), FixedWindowRateLimiter(storage)

    def count(self, name: Name, item: RateLimitItem, who: str, cost: int) -> Counted:
        strategy = self._fixed if name == "upload-bytes" else self._moving
        # Tested first: a fixed window counts what it refuses, and a caller that tries again would never get through.
        passed = strategy.test(item, name, who, cost=cost) and strategy.hit(item, name, who, cost=cost)
        return Counted(passed, *strategy.get_window_stats(item, name, who))


class _Shared:
    """Counts in Redis: a script of `limits` judges and counts in one step, so all processes together get what the limit
    allows and no more."""

    def __init__(self, redis: RedisLink, key: bytes) -> None:
        options: dict[str, Any] = {"connection_pool": redis.pool}
        storage = aio.storage.RedisStorage(
            "async+redis://", implementation="redispy", key_prefix=_PREFIX, wrap_exceptions=False, **options
        )
        self._moving = aio.strategies.MovingWindowRateLimiter(storage)
        self._fixed = aio.strategies.FixedWindowRateLimiter(storage)
        self._redis, self._key = redis, key

    async def count(self, name: Name, item: RateLimitItem, who: str, cost: int) -> Counted:
        """Raises RedisAway; it may have been counted all the same."""
        named = hashlib.blake2b(who.encode("utf-8", "surrogateescape"), key=self._key, digest_size=16).hexdigest()

        async def work() -> Counted:
            if name != "upload-bytes":
                passed = await self._moving.hit(item, name, named, cost=cost)
                return Counted(passed, *await self._moving.get_window_stats(item, name, named))
            # As in memory. Two at once may pass the test together, and the later is refused although counted: never more
            # than the limit.
            passed = await self._fixed.test(item, name, named, cost=cost)
            passed = passed and await self._fixed.hit(item, name, named, cost=cost)
            return Counted(passed, *await self._fixed.get_window_stats(item, name, named))

        return await self._redis.use(work)
