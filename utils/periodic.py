"""Work that a process repeats in the background: one task, one way to pause, to fail and to stop."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable

from utils.exceptions import IngestionException
from utils.logger import Throttle, get_logger
from utils.metrics import JOB_LAST_SUCCESS, JOB_RUNS

log = get_logger(__name__)

STOP_TIMEOUT = 5.0  # seconds that `stop` waits for work that does not end when it is cancelled
LOG_INTERVAL = 60.0  # seconds between two log lines about failures of one job
Wait = Callable[[asyncio.Event, float], Awaitable[None]]


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Returns when the event is set or the time is over; `seconds` may be infinite."""
    try:
        async with asyncio.timeout(None if math.isinf(seconds) else seconds):
            await event.wait()
    except TimeoutError:
        pass


class PeriodicJob:
    """Repeats `work` in a task of its own. Belongs to one event loop.

    A failure ends one run, never the job. A retryable IngestionException (the database or the store is away) was logged
    where it happened; every other error is logged here, at most once in LOG_INTERVAL.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[object]],
        interval: float | Callable[[], float],
        *,
        at_start: bool = True,
        retry_interval: float | None = None,
        jitter: float = 0.0,
        wake: asyncio.Event | None = None,
        wait: Wait = wait_for,
    ) -> None:
        """`name`: of the task, the log lines and the metric's label.

        `interval`: seconds from the end of a run to the next one, or a function that says so after each run.
        `at_start`: the first run comes at once, else after an interval. `retry_interval`: seconds after a failed run, when
        that differs. `jitter`: the share by which a pause varies. `wake`: ends a pause when it is set; it is cleared before
        each run, so what is set during a run leads to another one.
        """
        self.name = name
        self._work = work
        self._interval = interval
        self._at_start = at_start
        self._retry_interval = retry_interval
        self._jitter = jitter
        self._wake = wake or asyncio.Event()
        self._wait = wait
        self._throttle = Throttle(LOG_INTERVAL, time.monotonic)
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def start(self) -> None:
        self._stopped = False
        self._task = asyncio.create_task(self._run(), name=self.name)

    def wake(self) -> None:
        """Ends the pause."""
        self._wake.set()

    async def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Cancels the work and waits at most `timeout` seconds for its end. Repeating it is fine."""
        if self._task is None:
            return
        self._stopped = True  # also for work that takes the cancellation for its own and ends well
        self._task.cancel()
        _, left = await asyncio.wait({self._task}, timeout=timeout)
        if left:
            log.error("job_does_not_stop", job=self.name, after_s=timeout)

    async def _run(self) -> None:
        if not self._at_start:
            await self._wait(self._wake, self._pause(failed=False))
        while True:
            self._wake.clear()
            failed = not await self._once()
            if self._stopped:
                return
            await self._wait(self._wake, self._pause(failed))

    async def _once(self) -> bool:
        """Whether a run succeeded."""
        outcome = "failed"
        try:
            await self._work()
            outcome = "ok"
        except Exception as error:
            if isinstance(error, IngestionException) and error.retryable:
                outcome = "unavailable"
            elif (withheld := self._throttle.allow(type(error).__name__)) is not None:
                log.exception("job_failed", job=self.name, withheld=withheld)
        JOB_RUNS.labels(task=self.name, outcome=outcome).inc()
        if outcome == "ok":
            JOB_LAST_SUCCESS.labels(task=self.name).set_to_current_time()
        return outcome == "ok"

    def _pause(self, failed: bool) -> float:
        if failed and self._retry_interval is not None:
            return self._retry_interval
        seconds = self._interval() if callable(self._interval) else self._interval
        return seconds * random.uniform(1 - self._jitter, 1 + self._jitter)  # noqa: S311
