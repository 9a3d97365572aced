"""PeriodicJob: when it runs, what it does with failures, and that it stops. Pauses are scripted, nothing sleeps."""

from __future__ import annotations

import asyncio
import math

import pytest
from structlog.testing import capture_logs

from utils.exceptions import DatabaseUnavailable
from utils.metrics import REGISTRY
from utils.periodic import PeriodicJob, wait_for


class Pauses:
    """Stands for `wait`: each pause is recorded and lasts until `next`, or until the job is woken."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.begun = asyncio.Event()
        self._over = asyncio.Event()

    async def __call__(self, event: asyncio.Event, seconds: float) -> None:
        self.seconds.append(seconds)
        self.begun.set()
        waits = {asyncio.ensure_future(self._over.wait()), asyncio.ensure_future(event.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._over.clear()

    async def until(self, count: int) -> None:
        """Returns when that many pauses have begun."""
        while len(self.seconds) < count:
            self.begun.clear()
            await self.begun.wait()

    def next(self) -> None:
        self._over.set()


def runs(job: str, outcome: str) -> float:
    return REGISTRY.get_sample_value("ingestion_job_runs_total", {"task": job, "outcome": outcome}) or 0.0


async def test_runs_at_start_and_after_each_pause() -> None:
    done: list[int] = []
    pauses = Pauses()

    async def work() -> None:
        done.append(len(pauses.seconds))

    job = PeriodicJob("test-plain", work, 30, wait=pauses)
    job.start()
    await pauses.until(1)
    assert done == [0]
    pauses.next()
    await pauses.until(2)
    assert done == [0, 1]
    assert pauses.seconds == [30, 30]
    assert runs("test-plain", "ok") == 2
    await job.stop()


async def test_not_at_start_and_with_a_next_due_function() -> None:
    done: list[float] = []
    pauses, due = Pauses(), iter((3.0, 1.0, math.inf))

    async def work() -> None:
        done.append(pauses.seconds[-1])

    job = PeriodicJob("test-due", work, lambda: next(due), at_start=False, wait=pauses)
    job.start()
    await pauses.until(1)
    assert done == []
    pauses.next()
    await pauses.until(2)
    job.wake()
    await pauses.until(3)
    assert done == [3.0, 1.0]
    assert pauses.seconds == [3.0, 1.0, math.inf]
    await job.stop()


async def test_what_is_set_during_a_run_leads_to_another_one() -> None:
    count, wake, pauses = 0, asyncio.Event(), Pauses()

    async def work() -> None:
        nonlocal count
        count += 1
        if count == 1:
            wake.set()

    job = PeriodicJob("test-wake", work, 30, wake=wake, wait=pauses)
    job.start()
    await pauses.until(2)
    for _ in range(20):  # turns of the loop in which a third run could begin
        await asyncio.sleep(0)
    assert count == 2
    await job.stop()


async def test_failures_end_a_run_and_not_the_job_and_are_logged_once() -> None:
    errors: list[Exception] = [DatabaseUnavailable(), RuntimeError("first"), RuntimeError("second")]
    pauses = Pauses()

    async def work() -> None:
        if errors:
            raise errors.pop(0)

    job = PeriodicJob("test-failing", work, 30, retry_interval=2, wait=pauses)
    with capture_logs() as lines:
        job.start()
        for count in range(1, 5):
            await pauses.until(count)
            pauses.next()
        await job.stop()
    assert pauses.seconds[:4] == [2, 2, 2, 30]
    assert [line["event"] for line in lines] == ["job_failed"]  # of three failures: one was expected, one withheld
    assert (runs("test-failing", "unavailable"), runs("test-failing", "failed")) == (1, 2)


async def test_jitter_stays_within_its_share() -> None:
    pauses = Pauses()

    async def work() -> None:
        pass

    job = PeriodicJob("test-jitter", work, 100, jitter=0.2, wait=pauses)
    job.start()
    for count in range(1, 21):
        await pauses.until(count)
        pauses.next()
    await job.stop()
    assert all(80 <= seconds <= 120 for seconds in pauses.seconds)
    assert len(set(pauses.seconds)) > 1


async def test_stop_is_bounded_when_the_work_does_not_end() -> None:
    running, may_end = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        running.set()
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    job = PeriodicJob("test-stubborn", stubborn, 30)
    job.start()
    await running.wait()
    with capture_logs() as lines:
        await job.stop(timeout=0.01)
    assert [line["event"] for line in lines] == ["job_does_not_stop"]
    may_end.set()
    with capture_logs() as lines:
        await job.stop()  # the work takes the cancellation for its own: it ends, and so does the job
    assert lines == []


@pytest.mark.parametrize("is_set", [True, False])
async def test_wait_for_ends_by_the_event_or_by_time(is_set: bool) -> None:
    event = asyncio.Event()
    if is_set:
        event.set()
    await wait_for(event, math.inf if is_set else 0.001)
    assert event.is_set() is is_set
