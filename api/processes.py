"""Several processes of one role on one machine: started, replaced when they die, stopped together.

uvicorn's own supervisor (`uvicorn.supervisors.Multiprocess`) replaces a dead process at once and for ever, and takes a
picklable application: here a process is `main.py` itself, as it would be started by hand. Those that answer share one
port by SO_REUSEPORT (the kernel shares out connections) and one set of metrics (prometheus-client's multiprocess mode:
files that outlive their process, so counters never fall). The supervisor serves nothing and imports little.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from config import Role, Settings
from utils.logger import get_logger

log = get_logger(__name__)

CHILD = "TRACKSHIFT_CHILD"  # in the environment of a process that was started here: its number
METRICS_DIR = "PROMETHEUS_MULTIPROC_DIR"
FIRST_BACK_OFF, LONGEST_BACK_OFF = 0.5, 30.0  # seconds until a process that died is replaced; doubled each time
STEADY_AFTER = 60.0  # seconds after which a process's death begins a new series
STOP_GRACE = 10.0  # seconds beyond API__SHUTDOWN_TIMEOUT; then SIGKILL
MAIN = Path(__file__).resolve().parents[1] / "main.py"


@dataclass(slots=True)
class _Child:
    number: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    back_off: float = FIRST_BACK_OFF


class Supervisor:
    """Of `count` processes; `port`: of those that answer. Runs on the main thread, which signals reach."""

    def __init__(self, settings: Settings, count: int, port: int, environment: Mapping[str, str] | None = None) -> None:
        self._settings, self._port = settings, port
        self._environment = dict(os.environ if environment is None else environment)
        self._children = [_Child(number) for number in range(1, count + 1)]
        # (what, child): started, ended, signal. Signal handlers may put into a SimpleQueue.
        self._happened: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._metrics = settings.DATA_DIR / "metrics"
        self._stopping = False

    def run(self) -> int:
        """Until a signal; returns the exit code: 0 stopped, 1 a process had to be killed, 2 the settings are wrong."""
        shutil.rmtree(self._metrics, ignore_errors=True)  # of the last run
        self._metrics.mkdir(parents=True, exist_ok=True)
        for what in (signal.SIGTERM, signal.SIGINT):
            signal.signal(what, self._on_signal)
        for child in self._children:
            self._start(child)
        code = 0
        while True:
            event, number = self._happened.get()
            if event == "signal":
                break
            child = self._children[number - 1]
            if event == "start":
                self._start(child)
            elif (code := self._ended(child)) == 2:
                break
        return max(code if code == 2 else 0, self._stop())

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._happened.put(("signal", 0))

    def _start(self, child: _Child) -> None:
        child.started = time.monotonic()
        child.process = process = subprocess.Popen([sys.executable, str(MAIN)], env=self._environment_of(child.number))
        log.info("process_started", number=child.number, pid=process.pid)
        threading.Thread(target=self._wait, args=(process, child.number), daemon=True).start()

    def _wait(self, process: subprocess.Popen[bytes], number: int) -> None:
        process.wait()
        self._happened.put(("ended", number))

    def _environment_of(self, number: int) -> dict[str, str]:
        settings, answers = self._settings, self._settings.ROLE is Role.API
        own = {
            CHILD: str(number), "API__PROCESSES": "1", "WORKERS__PROCESSES": "1",
            "DATA_DIR": str(settings.DATA_DIR / f"{settings.ROLE.value}-{number}"),
            "API__PORT": str(self._port if answers or not self._port else self._port + number - 1),
        }  # fmt: skip
        if settings.SPOOL.DIR is not None:  # a spool has one process
            own["SPOOL__DIR"] = str(settings.SPOOL.DIR / f"{settings.ROLE.value}-{number}")
        if answers:
            own[METRICS_DIR] = str(self._metrics)
        return self._environment | own

    def _ended(self, child: _Child) -> int:
        """Has a process that died replaced; returns its exit code."""
        assert child.process is not None
        code, lived = child.process.wait(), time.monotonic() - child.started
        self._forget(child.process.pid)
        if code == 2:
            return code
        child.back_off = FIRST_BACK_OFF if lived > STEADY_AFTER else child.back_off
        log.error("process_died", number=child.number, pid=child.process.pid, code=code, replaced_in_s=child.back_off)
        again = threading.Timer(child.back_off, self._happened.put, [("start", child.number)])
        again.daemon = True
        again.start()
        child.back_off = min(LONGEST_BACK_OFF, 2 * child.back_off)
        return code

    def _forget(self, pid: int) -> None:
        """What a dead process had in hand is over; what it counted stays."""
        for path in self._metrics.glob(f"gauge_live*_{pid}.db"):
            path.unlink(missing_ok=True)

    def _stop(self) -> int:
        """Asks all to stop at once, for each hands over on its own; kills those that do not in time."""
        running = [child.process for child in self._children if child.process is not None and child.process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        deadline, code = time.monotonic() + self._settings.API.SHUTDOWN_TIMEOUT + STOP_GRACE, 0
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("process_killed", pid=process.pid)
                process.kill()
                process.wait()
                code = 1
        return code


def child_number() -> int | None:
    """Which of several processes this one is; None for one that was started by itself."""
    text = os.environ.get(CHILD, "")
    return int(text) if text.isdigit() else None


def die_with_parent() -> None:
    """Has the kernel stop this process when its supervisor is gone (Linux)."""
    if sys.platform != "linux":
        return
    import ctypes

    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
