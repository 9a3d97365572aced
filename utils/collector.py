"""The garbage collector's share of the event loop's pauses: what stays for the life of the process is not looked through.

A full collection visits every object that it knows while it holds the interpreter: 200-360 ms for all that the service
has imported, 30-50 ms for numpy, OpenCV and PyAV, which are imported late, by the first picture.
"""

from __future__ import annotations

import gc
import sys
from typing import Any

GROWN = 20  # modules imported since the last time


class Collector:
    """Threads: collections run in whichever thread allocates; only one runs at a time."""

    def __init__(self) -> None:
        self._modules = 0

    def start(self) -> None:
        """Exempts what is loaded now and, from then on, what is imported later."""
        self._freeze()
        gc.callbacks.append(self._collected)
        gc.enable()  # main.py turned it off

    def stop(self) -> None:
        gc.callbacks.remove(self._collected)
        gc.unfreeze()

    def _collected(self, phase: str, info: dict[str, Any]) -> None:
        # Before generation 2 is looked through for the first time, generation 1 has been ten times.
        if phase == "stop" and info["generation"] == 1 and len(sys.modules) - self._modules >= GROWN:
            self._freeze()

    def _freeze(self) -> None:
        self._modules = len(sys.modules)
        gc.freeze()
