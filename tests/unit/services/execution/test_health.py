"""Health: what the service itself found wrong makes it degraded, and is no dependency."""

from __future__ import annotations

import asyncio

import pytest

from services.execution import health
from services.execution.health import Degraded, HealthService
from utils.exceptions import IngestionException
from utils.metrics import REGISTRY
from utils.periodic import PeriodicJob


async def well() -> str | None:
    return "fine"


async def wrong() -> str | None:
    raise IngestionException("Nothing is swept.")


async def test_a_finding_of_its_own_makes_it_degraded() -> None:
    found = await HealthService({"database": well}, {"sweeper": wrong}).check()
    assert found.status == "degraded"
    assert found.dependencies == {"database": "healthy"}
    assert (found.checks["sweeper"].status, found.checks["sweeper"].detail) == ("degraded", "Nothing is swept.")


async def test_none_leaves_it_healthy() -> None:
    found = await HealthService({"database": well}, {"sweeper": well}).check()
    assert (found.status, found.dependencies) == ("healthy", {"database": "healthy"})


async def test_a_required_part_that_fails_counts_for_more() -> None:
    assert (await HealthService({"database": wrong}, {"sweeper": wrong}).check()).status == "unhealthy"


async def test_an_optional_part_that_fails_makes_it_degraded() -> None:
    async def away() -> str | None:
        raise Degraded("Redis is not used.")

    found = await HealthService({"database": well}, {}, {"redis-here": away}).check()
    assert (found.status, found.dependencies) == ("degraded", {"database": "healthy", "redis-here": "degraded"})
    assert found.checks["redis-here"].detail == "Redis is not used."
    assert REGISTRY.get_sample_value("ingestion_dependency_up", {"dependency": "redis-here"}) == 0
    assert (await HealthService({"database": wrong}, {}, {"redis-here": away}).check()).status == "unhealthy"
    assert (await HealthService({"database": well}, {}, {"redis-here": well}).check()).status == "healthy"
    assert REGISTRY.get_sample_value("ingestion_dependency_up", {"dependency": "redis-here"}) == 1


async def test_the_metric_follows_without_anybody_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CACHE_SECONDS", 0.0)
    answers: asyncio.Queue[bool] = asyncio.Queue(1)

    async def check() -> str | None:
        if not await answers.get():
            raise IngestionException("It is away.")
        return "fine"

    job = PeriodicJob("clockwork", HealthService({"clockwork": check}, {}).check, 0.001)
    job.start()
    for up in (True, False, True, False):
        await answers.put(up)
        async with asyncio.timeout(5):
            while REGISTRY.get_sample_value("ingestion_dependency_up", {"dependency": "clockwork"}) != up:
                await asyncio.sleep(0.001)
    await job.stop()
    assert answers.empty()
