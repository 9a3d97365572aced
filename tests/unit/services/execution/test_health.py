"""Health: what the service itself found wrong makes it degraded, and is no dependency."""

from __future__ import annotations

from services.execution.health import HealthService
from utils.exceptions import IngestionException


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
