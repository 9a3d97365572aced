"""`main.py` with a fine probe of the event loop's pauses, written as JSON lines to the file that LAG_FILE names.

`python probed_main.py reference`: the same probe in a process that does nothing else. What is late there at the same
moment is the machine's doing, not the service's.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parents[2]))

EVERY = 0.005  # seconds
TOLD = 0.02  # pauses longer than this are written down
STACK_AFTER = 0.03  # a loop that has been silent for so long is looked at


def ready_for() -> float:
    """Seconds for which this thread was ready to run and no processor was free, since it began (Linux, sched-stats.rst)."""
    with open("/proc/thread-self/schedstat", encoding="ascii") as file:
        return int(file.read().split()[1]) / 1e9


class Probe:
    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._ran_at = time.perf_counter()
        self._loop_thread = threading.get_ident()
        self._stack: list[str] = []
        self._count = 0
        self._collection = 0.0

    def _collecting(self, phase: str, info: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._collection = now
        elif now - self._collection > TOLD / 2:
            self._write({"gc": info["generation"], "at": self._collection, "took": now - self._collection})

    async def run(self) -> None:
        gc.callbacks.append(self._collecting)
        threading.Thread(target=self._watch, daemon=True).start()
        while True:
            due, ready = time.perf_counter() + EVERY, ready_for()
            await asyncio.sleep(EVERY)
            now = self._ran_at = time.perf_counter()
            self._count += 1
            if now - due > TOLD:
                self._write({"from": due, "to": now, "ready": ready_for() - ready, "stack": self._stack})
                self._stack = []
            elif self._count % 50 == 0:
                self._write({"samples": self._count})

    def _write(self, line: dict[str, object]) -> None:
        self._file.write(json.dumps(line) + "\n")

    def _watch(self) -> None:
        while True:
            time.sleep(0.005)
            if time.perf_counter() - self._ran_at > STACK_AFTER + EVERY and not self._stack:
                frame: FrameType | None = sys._current_frames().get(self._loop_thread)
                self._stack = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_stack(frame)[-7:]]


async def probe_loop_lag() -> None:
    await Probe(Path(os.environ["LAG_FILE"])).run()


if __name__ == "__main__":
    if sys.argv[1:] == ["reference"]:
        asyncio.run(probe_loop_lag())
    import api.lifespan
    from main import main

    api.lifespan.probe_loop_lag = probe_loop_lag
    sys.exit(main())
