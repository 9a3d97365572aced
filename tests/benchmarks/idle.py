"""CPU of the service with nothing to do; of open streams that nobody captures from: `make bench idle-streams`."""

from __future__ import annotations

import time

import psutil

from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.harness import Cpu, Running
from tests.benchmarks.parts import parts
from tests.conftest import Service

_SECONDS = 10.0  # a round


def idle(bench: Bench) -> None:
    """Of the service's process and its children; PostgreSQL and store are beside it."""
    with parts(bench.folder) as made:
        service = Service(made.environment(bench.folder / "data"), bench.folder / "service.log")
        service.forked = False
        running = Running(service.start())
        try:
            process = psutil.Process(running.process.pid)
            family = [process, *process.children(recursive=True)]
            time.sleep(10)  # what a start leaves to be done
            spent = []
            for _ in range(bench.rounds):
                used = Cpu(*family)
                time.sleep(_SECONDS)
                spent.append(used.per_second())
            bench.compare("nothing to do", "ms/s", spent, [], Goal("<=", 5))
        finally:
            service.stop()
