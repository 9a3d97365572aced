"""How long the fuzzers run: FUZZ_EXAMPLES inputs each (100 in the test command)."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

fuzzed = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")), deadline=2000, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
