"""Health: what can be used right now, checked on the live pools with timeouts of its own, cached for a second.

A periodic job runs the checks too, so that `ingestion_dependency_up` is true without anybody asking.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from utils.exceptions import IngestionException
from utils.logger import get_logger
from utils.metrics import DEPENDENCY_UP

log = get_logger(__name__)

CACHE_SECONDS = 1.0
CHECK_TIMEOUT = 2.5  # seconds for one check
SLOW = 1.0  # seconds beyond which a part that answers is called degraded
Check = Callable[[], Awaitable[str | None]]
State = Literal["healthy", "degraded", "unhealthy"]


@dataclass(frozen=True, slots=True)
class PartHealth:
    """The result of one check; `latency_ms` is None for an internal one."""

    status: State
    latency_ms: float | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class Health:
    """The state of the whole and of its parts; `dependencies` without the internal checks."""

    status: State
    timestamp: datetime
    dependencies: dict[str, State]
    checks: dict[str, PartHealth]


class Degraded(Exception):
    """Raised by an internal or optional check: it works, but not as it should; the text says why."""


class HealthService:
    """Runs the checks of the parts it depends on, each of which makes the whole unhealthy.

    `optional`: parts without which the service goes on, degraded. `internal`: what the service itself found wrong: shown in
    `checks`, no dependency, and makes the whole degraded.
    Everything runs on the event loop.
    """

    def __init__(
        self, required: dict[str, Check], internal: dict[str, Check], optional: dict[str, Check] | None = None
    ) -> None:
        self._required = required
        self._optional = optional or {}
        self._internal = internal
        self._lock = asyncio.Lock()
        self._last: tuple[float, Health] | None = None
        self.stopping = False

    async def check(self) -> Health:
        """The state of all parts, at most a second old; never raises."""
        async with self._lock:
            now = time.monotonic()
            if self._last is not None and now - self._last[0] < CACHE_SECONDS and not self.stopping:
                return self._last[1]
            answer = await self._check_all()
            self._last = (time.monotonic(), answer)
            return answer

    async def _check_all(self) -> Health:
        parts = self._required | self._optional
        results = dict(
            zip(parts, await asyncio.gather(*(self._one(name, part) for name, part in parts.items())), strict=True)
        )
        results |= {name: await self._own(check) for name, check in self._internal.items()}
        found = {result.status for result in results.values()}
        status: State = "healthy"
        if self.stopping or "unhealthy" in found:
            status = "unhealthy"
        elif "degraded" in found:
            status = "degraded"
        return Health(
            status=status, timestamp=datetime.now(UTC),
            dependencies={name: results[name].status for name in parts}, checks=results,
        )  # fmt: skip

    async def _own(self, check: Check) -> PartHealth:
        try:
            return PartHealth(status="healthy", latency_ms=None, detail=await check())
        except (Degraded, IngestionException) as error:
            return PartHealth(status="degraded", latency_ms=None, detail=str(error))

    async def _one(self, name: str, check: Check) -> PartHealth:
        started = time.perf_counter()
        detail: str | None = None
        ok = False
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                detail = await check()
            ok = True
        except TimeoutError:
            detail = f"no answer within {CHECK_TIMEOUT} s"
        except IngestionException as error:
            detail = error.message
        except Degraded as error:
            detail = str(error)
        except Exception:
            log.exception("health_check_failed", part=name)
            detail = "the check itself failed"
        took = time.perf_counter() - started
        DEPENDENCY_UP.labels(dependency=name).set(ok)
        status: State = "healthy"
        if not ok and name in self._required:
            status = "unhealthy"
        elif not ok or took > SLOW:
            status = "degraded"
        return PartHealth(status=status, latency_ms=round(took * 1000, 2), detail=detail)
