"""All faults by name, and how often `make test-faults` tries those that are not tried three times."""

from __future__ import annotations

from tests.faults import limits
from tests.faults.faults import SCENARIOS

__all__ = ["ROUNDS", "SCENARIOS", "limits"]

ROUNDS = {"service SIGKILL": 20, "service SIGTERM": 5, "one of two SIGKILL": 5}
