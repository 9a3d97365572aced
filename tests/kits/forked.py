"""Processes of the product that begin with its modules imported: 3 s of CPU less for each of the many that tests start.

A fork server (standard library) imports once for a pytest process what `tests/kits/preloaded.py` names. A forked process
has its own memory, threads, files, environment and signals, and runs `main.py` or `services.commands` from the first line.
What is tested at a start itself is started without this (`Service.forked`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.kits.preloaded"])
COMMANDS = "services.commands"
# An interpreter and its libraries read these before a line of ours runs.
_BEFORE = ("PYTHON", "LD_", "MALLOC_", "OPENBLAS_", "OMP_")
_lock = threading.Lock()  # multiprocessing's own books are for one thread


def can(environment: Mapping[str, str]) -> bool:
    """Whether a forked process would see this environment as one of its own does."""
    names = {name for name in {*environment, *os.environ} if name.startswith(_BEFORE)}
    return all(environment.get(name) == os.environ.get(name) for name in names)


def _main(program: str, arguments: tuple[str, ...], environment: dict[str, str], out: str, err: str) -> None:
    """In the forked process."""
    from tests.kits.preloaded import SET_BY_IMPORTS

    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update({**environment, **SET_BY_IMPORTS})
    time.tzset()
    os.chdir(ROOT)
    sys.argv = [program, *arguments]
    if program == COMMANDS:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(program, run_name="__main__")


class Forked:
    """As much of `subprocess.Popen` as tests use. Thread-safe."""

    def __init__(
        self, program: str, environment: Mapping[str, str], out: Path, err: Path | None = None, words: tuple[str, ...] = ()
    ) -> None:
        # A daemon: ended with pytest, which waits for none.
        self._process: ForkServerProcess = CONTEXT.Process(
            target=_main, args=(program, words, dict(environment), str(out), str(err or out)), daemon=True
        )
        with _lock, contextlib.chdir(ROOT):  # the server imports from the folder that it is started in
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        """The exit code, minus the signal's number; None while it runs."""
        with _lock:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        if not connection.wait([self._process.sentinel], timeout):
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_command(environment: Mapping[str, str], *words: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    """`python -m services.commands WORDS`, as `subprocess.run` would answer it."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = Forked(COMMANDS, environment, out, err, words)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            raise
        return subprocess.CompletedProcess([COMMANDS, *words], code, out.read_text(), err.read_text())
