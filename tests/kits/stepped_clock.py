"""A wall clock that can be set under a running process: imported before anything else, it moves this process's.

The file that the environment's STEPPED_CLOCK names holds the seconds by which it is ahead. `time.time`, `time.time_ns`
and the now of `datetime` follow it at once; the monotonic clocks do not, as on a host whose clock is set. `python
tests/kits/stepped_clock.py` is `main.py` under such a clock. (libfaketime, tried before, broke processes of many threads.)
"""

from __future__ import annotations

import ctypes
import datetime
import gc
import os
import sys
import time
from pathlib import Path
from typing import Any

_time, _time_ns = time.time, time.time_ns


def ahead() -> float:
    return float(Path(os.environ["STEPPED_CLOCK"]).read_text())


def _now(_cls: type[datetime.datetime], tz: datetime.tzinfo | None = None) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(time.time(), tz)


def _utcnow(_cls: type[datetime.datetime]) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)


def install() -> None:
    time.time = lambda: _time() + ahead()
    time.time_ns = lambda: _time_ns() + round(ahead() * 1e9)
    # A type made in C takes no new attributes by assignment, and a subclass would not be the type that others check for.
    members: dict[str, Any] = gc.get_referents(datetime.datetime.__dict__)[0]
    members["now"], members["utcnow"] = classmethod(_now), classmethod(_utcnow)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))


def step(file: Path, seconds: float) -> None:
    """Sets the clock of the processes that read this file."""
    fresh = file.with_suffix(".new")
    fresh.write_text(str(seconds))
    fresh.replace(file)


if "STEPPED_CLOCK" in os.environ:
    install()

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import main

    sys.exit(main.main())
