"""Health: what can be used right now, checked on the live pools with timeouts of its own, cached for a second.

The checks also run on a clock of their own, so that `ingestion_dependency_up` is true without anybody asking.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from config import VERSION
from models.schemas import HealthCheck, HealthCheckResponse
from utils.exceptions import IngestionException
from utils.logger import get_logger
from utils.metrics import DEPENDENCY_UP

log = get_logger(__name__)

CACHE_SECONDS = 1.0
CHECK_TIMEOUT = 2.5  # seconds for one check
SLOW = 1.0  # seconds beyond which a part that answers is called degraded
Check = Callable[[], Awaitable[str | None]]


class Degraded(Exception):
    """Raised by an internal check: it works, but not as it should; the text says why."""


class HealthService:
    """Runs the checks of the parts it depends on, each of which makes the whole unhealthy.

    `internal`: what the service itself found wrong: shown in `checks`, no dependency, and makes the whole degraded.
    Everything runs on the event loop. `start` begins to check every `interval` seconds, `stop` ends it.
    """

    def __init__(self, required: dict[str, Check], internal: dict[str, Check], interval: float = 5.0) -> None:
        self._required = required
        self._internal = internal
        self._turn = asyncio.Lock()
        self._last: tuple[float, HealthCheckResponse] | None = None
        self._interval = interval
        self._task: asyncio.Task[None] | None = None
        self.stopping = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="health")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self.check()
            await asyncio.sleep(self._interval)

    async def check(self) -> HealthCheckResponse:
        """The state of all parts, at most a second old; never raises."""
        async with self._turn:
            now = time.monotonic()
            if self._last is not None and now - self._last[0] < CACHE_SECONDS and not self.stopping:
                return self._last[1]
            answer = await self._look()
            self._last = (time.monotonic(), answer)
            return answer

    async def _look(self) -> HealthCheckResponse:
        parts = self._required
        results = dict(
            zip(parts, await asyncio.gather(*(self._one(name, part) for name, part in parts.items())), strict=True)
        )
        results |= {name: await self._own(check) for name, check in self._internal.items()}
        found = {result.status for result in results.values()}
        status = "healthy"
        if self.stopping or "unhealthy" in found:
            status = "unhealthy"
        elif "degraded" in found:
            status = "degraded"
        return HealthCheckResponse(
            status=status, timestamp=datetime.now(UTC), version=VERSION,
            dependencies={name: results[name].status for name in parts}, checks=results,
        )  # fmt: skip

    async def _own(self, check: Check) -> HealthCheck:
        try:
            return HealthCheck(status="healthy", latency_ms=None, detail=await check())
        except (Degraded, IngestionException) as error:
            return HealthCheck(status="degraded", latency_ms=None, detail=str(error))

    async def _one(self, name: str, check: Check) -> HealthCheck:
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
        except Exception:
            log.exception("health_check_failed", part=name)
            detail = "the check itself failed"
        took = time.perf_counter() - started
        DEPENDENCY_UP.labels(dependency=name).set(ok)
        status = "unhealthy" if not ok else "degraded" if took > SLOW else "healthy"
        return HealthCheck(status=status, latency_ms=round(took * 1000, 2), detail=detail)
