"""All faults by name, and how often `make test-faults` tries those that are not tried three times."""

from __future__ import annotations

from functools import partial

from tests.faults import fleet, limits, rolling
from tests.faults.celery import BROKEN, many_at_once, redis_broken, site_cut_off
from tests.faults.faults import SCENARIOS

SCENARIOS |= {name: partial(redis_broken, name=name) for name in BROKEN}
SCENARIOS["Celery: broker partition of one site"] = site_cut_off
SCENARIOS["Celery: 300 captures at once to 3 workers"] = many_at_once

__all__ = ["ROUNDS", "SCENARIOS", "fleet", "limits", "rolling"]

ROUNDS = {
    "service SIGKILL": 20, "service SIGTERM": 5, "one of two SIGKILL": 5, "worker SIGKILL": 10, "worker SIGTERM": 10,
    rolling.NAME: 1,
}  # fmt: skip
