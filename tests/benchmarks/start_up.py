"""`python main.py` to ready with the outside parts up, beside an interpreter that imports the libraries."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.frame import Bench, Goal
from tests.benchmarks.parts import parts
from tests.conftest import Service

_LIBRARIES = "import fastapi, cv2, av, boto3, sqlalchemy, alembic"


def _seconds(*arguments: str) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, *arguments], check=True)
    return time.monotonic() - began


def _start(environment: dict[str, str], log: Path) -> float:
    service = Service(environment, log)
    service.forked = False
    began = time.monotonic()
    service.start()
    took = time.monotonic() - began
    service.stop()
    return took


def start_up(bench: Bench) -> None:
    """Each once before the rounds: files are in the page cache, tables are made."""
    with parts(bench.folder) as made:
        environment = made.environment(bench.folder / "data")
        log = bench.folder / "service.log"
        _start(environment, log)
        started, imported, own = bench.turns(
            lambda: _start(environment, log),
            lambda: _seconds("-c", _LIBRARIES),
            lambda: _seconds("-c", "import main, services.runtime"),
        )
    beyond = [mine - libraries for mine, libraries in zip(started, imported, strict=True)]
    bench.compare("python main.py to ready / the libraries' imports", "s", started, imported, Goal())
    bench.compare("python main.py to ready, beyond the libraries' imports", "s", beyond, [], Goal("<=", 1.5))
    bench.compare("what is imported at the start", "s", own, [], Goal("<=", 2))
