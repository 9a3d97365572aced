"""How many Idempotency-Keys a principal may have kept at once (API__IDEMPOTENCY_MAX_KEYS).

Counting them all for each request would cost more than the request: a count gives this process room for an eighth of what
is left, for a minute at most; near the bound each request counts. One process keeps the bound exactly. Of several, each may
still use the room that it found before: together they exceed it by what they took within a minute, and never reach twice as
much.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from utils.exceptions import RateLimited

SHARES = 8
FRESH = 60.0  # seconds that a count holds
FULL = 1.0  # seconds for which one that found no room holds: a caller that tries again and again costs no counts
MAX_OWNERS = 10_000


class KeyQuota:
    """Belongs to one event loop. `clock` is monotonic seconds."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self.most = most
        self._clock = clock
        # By owner: keys that may be taken, until when that holds, and the oldest key's time left at the count.
        self._rooms: dict[str, tuple[int, float, float]] = {}

    def known(self, owner: str) -> bool:
        """Whether `take` can be asked; else `counted` is told first."""
        room = self._rooms.get(owner)
        return room is not None and self._clock() < room[1]

    def counted(self, owner: str, kept: int, oldest_left: float) -> None:
        """There are `kept` keys (or more), and the oldest is removed in so many seconds."""
        left = self.most - kept
        room = max(1, left // SHARES) if left > 0 else 0
        if owner not in self._rooms and len(self._rooms) >= MAX_OWNERS:
            self._rooms.pop(next(iter(self._rooms)))
        self._rooms[owner] = (room, self._clock() + (FRESH if room else FULL), oldest_left)

    def take(self, owner: str) -> bool:
        """Whether one more key may be kept; that takes its place."""
        room, until, oldest_left = self._rooms[owner]
        if room == 1:  # the next one counts again
            del self._rooms[owner]
        elif room:
            self._rooms[owner] = (room - 1, until, oldest_left)
        return room > 0

    def refusal(self, owner: str) -> RateLimited:
        """What to answer when there is no room."""
        _, _, oldest_left = self._rooms[owner]
        return RateLimited(
            f"This caller has {self.most} Idempotency-Keys kept (API__IDEMPOTENCY_MAX_KEYS). Their time is over after "
            "API__IDEMPOTENCY_TTL; send without a key, or later.",
            retry_after=max(1, math.ceil(oldest_left)),
        )
