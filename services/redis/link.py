"""A process's connections to Redis, and a circuit that keeps requests away from a Redis that fails.

Nothing needs Redis: what cannot be done there is done without it. On the event loop.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import redis.exceptions as failures
from redis.asyncio import BlockingConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from config import RedisSettings
from services.redis.away import RedisAway
from utils.logger import get_logger

log = get_logger(__name__)

T = TypeVar("T")
CHECK_TIMEOUT = 2.0  # seconds, connecting included; less than what a check of /health may take
SLOW_PART = 0.2  # of REDIS__TIMEOUT: a use that takes longer is slow
SLOW_CHECK_PART = 0.5  # and a check, which is judged alone: the event loop may have been late
SLOW_USES = 3  # so many in a row, and Redis is not asked any more
CONNECTIONS = 16  # a use holds one for a few round trips; further uses wait for one, within their time
_CHECK_KEY = "trackshift:check"
_CHECK_KEPT = 60  # seconds
_NOT_CHECKED = "not_checked"
# In this order: the first that fits. What is not named is `refused`: Redis answered with another error.
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (failures.AuthenticationError, "password"),
    (failures.AuthenticationWrongNumberOfArgsError, "password"),
    (failures.NoPermissionError, "permission"),
    (failures.BusyLoadingError, "loading"),
    (failures.OutOfMemoryError, "full"),
    (failures.ReadOnlyError, "read_only"),
    (failures.TimeoutError, "timeout"),
    (TimeoutError, "timeout"),
    (failures.ConnectionError, "connection"),
    (OSError, "connection"),
    (RuntimeError, "connection"),  # uvloop's, of a connection that was closed a moment ago
)


def reason_of(error: BaseException) -> str:
    """Why Redis cannot be used, in one word: its own texts may hold addresses and names."""
    if isinstance(error, failures.ResponseError) and str(error).startswith(("NOAUTH", "WRONGPASS")):
        return "password"
    return next((word for kind, word in _REASONS if isinstance(error, kind)), "refused")


class RedisLink:
    """One a process, of a REDIS__HOST that is set. `pool` is for libraries, whose calls go through `use`.

    The first use that fails, or some slow ones in a row, open the circuit: from then on `use` refuses at once, until `check`
    has written a key in good time. The health checks call it, so that no request is spent on finding out.
    """

    def __init__(self, settings: RedisSettings, clock: Callable[[], float] = time.monotonic) -> None:
        options: dict[str, Any] = {}
        if settings.TLS:
            options = {"connection_class": SSLConnection, "ssl_min_version": ssl.TLSVersion.TLSv1_2}
            if settings.TLS_CA is not None:
                options["ssl_ca_certs"] = str(settings.TLS_CA)
        longest = max(CHECK_TIMEOUT, settings.TIMEOUT)  # `_within` cuts the whole, connecting included
        # Once, for a kept connection that somebody in between has closed. What was counted may be counted twice then.
        again = Retry(NoBackoff(), 1, supported_errors=(failures.ConnectionError,))
        self.pool = BlockingConnectionPool(
            max_connections=CONNECTIONS, timeout=longest, host=settings.HOST, port=settings.PORT, db=settings.DB,
            username=settings.USER or None, password=settings.PASSWORD.get_secret_value() or None,
            socket_connect_timeout=longest, socket_timeout=longest, retry=again, **options,
        )  # fmt: skip
        self._client: Redis = Redis(connection_pool=self.pool)
        self._timeout, self._clock = settings.TIMEOUT, clock
        self._slow_uses = 0
        self._running: set[asyncio.Timeout] = set()
        self._away: str | None = _NOT_CHECKED

    @property
    def away(self) -> str | None:
        """Why it is not used now; None when it is."""
        return self._away

    async def use(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` returns, within REDIS__TIMEOUT seconds. Raises RedisAway: at once while the circuit is open."""
        if self._away is not None:
            raise RedisAway(self._away)
        began = self._clock()
        done = await self._within(self._timeout, work)
        self._slow_uses = self._slow_uses + 1 if self._slow(began, SLOW_PART) else 0
        if self._slow_uses >= SLOW_USES:
            self._open("slow")
        return done

    async def queued(self, name: str) -> int:
        """How long a list is. Raises RedisAway."""

        async def ask() -> int:
            length: Any = self._client.llen(name)  # typed for the synchronous client as well
            return int(await length)

        return await self.use(ask)

    async def check(self) -> None:
        """Opens or closes the circuit by writing a key, since a Redis that is full or read-only answers a PING. Raises
        RedisAway."""
        began = self._clock()
        await self._within(CHECK_TIMEOUT, lambda: self._client.set(_CHECK_KEY, "1", ex=_CHECK_KEPT))
        if self._slow(began, SLOW_CHECK_PART):
            self._open("slow")
            raise RedisAway("slow")
        if self._away is not None:
            log.info("redis_available", after=self._away)
            self._away = None

    async def _within(self, seconds: float, work: Callable[[], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(seconds) as limit:
                self._running.add(limit)
                try:
                    return await work()
                finally:
                    self._running.discard(limit)
        except Exception as error:  # whatever a client library makes of a sick server: nothing needs Redis
            reason = reason_of(error)
        self._open(reason)
        raise RedisAway(reason)

    def _slow(self, began: float, part: float) -> bool:
        return self._clock() - began > self._timeout * part

    def _open(self, reason: str) -> None:
        if self._away is None or self._away == _NOT_CHECKED:  # once an outage, whatever it turns into
            log.warning("redis_unavailable", reason=reason, effect="each process counts for itself")
        self._away, self._slow_uses = reason, 0
        now = asyncio.get_running_loop().time()
        for limit in self._running:  # whoever waits goes on without it, too
            if not limit.expired():
                limit.reschedule(now)

    async def close(self) -> None:
        await self._client.aclose()
        await self.pool.disconnect()
