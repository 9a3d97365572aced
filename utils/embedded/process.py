"""A child process that never outlives the service, and a way to run short tools the same way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from .account import Account
from .errors import EmbeddedStartError

_LAUNCHER = Path(__file__).with_name("launch.py")
LOG_LIMIT = 4 * 1024 * 1024
_POLL = 0.02


class Cancelled(Exception):
    """The service is stopping: waiting for a part ends."""


def _command(argv: Sequence[str | Path], cwd: Path, account: Account | None, death_signal: signal.Signals) -> list[str]:
    spec = {
        "argv": [str(word) for word in argv],
        "cwd": str(cwd),
        "uid": account.uid if account else None,
        "gid": account.gid if account else None,
        "capability": account.capability if account else None,
        "death_signal": int(death_signal),
        "parent": os.getpid(),
    }
    return [sys.executable, "-I", "-S", str(_LAUNCHER), json.dumps(spec)]


class ChildProcess:
    """One long-running child in a session of its own, so that a terminal's Ctrl-C does not reach it before
    the service has flushed.

    Threads: on Linux the kernel sends ``death_signal`` when the *thread* that called ``start`` ends, not
    only when the process does. Call ``start`` from a thread that lives as long as the service (the
    supervisor's). Everything else may be called from any thread.
    Errors: ``start`` raises OSError; nothing else raises.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path,
        env: Mapping[str, str],
        log_path: Path,
        death_signal: signal.Signals = signal.SIGTERM,
        account: Account | None = None,
    ) -> None:
        self._command = _command(argv, cwd, account, death_signal)
        self._env = dict(env)
        self.log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Append mode is what makes trim_log() right: after a truncation the child writes at the new end.
        fd = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=fd,
                stderr=fd,
                start_new_session=True,
            )
        finally:
            os.close(fd)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self._process.poll() if self._process else None

    def wait(self, timeout: float) -> bool:
        """True when the child has ended within ``timeout`` seconds."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, *steps: tuple[signal.Signals, float]) -> bool:
        """Send each signal in turn and give it its seconds, then SIGKILL the whole group.

        Bounded by the sum of the times. True when no SIGKILL was needed.
        """
        for number, timeout in steps:
            if not self.running:
                break
            assert self._process is not None
            self._process.send_signal(number)
            self.wait(timeout)
        clean = not self.running
        self.kill()
        return clean

    def kill(self) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                self._process.kill()
            self._process.wait(10)

    def log_tail(self, lines: int = 20) -> str:
        return tail(self.log_path, lines)

    def trim_log(self) -> None:
        """Keep the log below twice LOG_LIMIT: what is there moves to ``<name>.1``. Lines that the child
        writes in between may be lost, which is fine for a log."""
        try:
            if self.log_path.stat().st_size <= LOG_LIMIT:
                return
            old = self.log_path.with_name(self.log_path.name + ".1")
            with self.log_path.open("rb") as source:
                source.seek(-LOG_LIMIT, os.SEEK_END)
                old.write_bytes(source.read(LOG_LIMIT))
            os.truncate(self.log_path, 0)
        except OSError:
            return


def tail(path: Path, lines: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def run_tool(
    part: str,
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout: float,
    account: Account | None = None,
    stdin: str = "",
) -> str:
    """Run a short program to its end and return what it printed. It too dies with the calling thread.

    Raises EmbeddedStartError with the program's output when it fails or takes longer than ``timeout``.
    """
    name = Path(argv[0]).name
    try:
        done = subprocess.run(
            _command(argv, cwd, account, signal.SIGKILL),
            env=dict(env),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise EmbeddedStartError(part, f"{name} did not finish within {timeout:.0f} s") from None
    if done.returncode != 0:
        output = "\n".join(done.stdout.splitlines()[-20:])
        raise EmbeddedStartError(part, f"{name} failed with exit code {done.returncode}", output)
    return done.stdout


def wait_until(check: Callable[[], bool], timeout: float, cancel: threading.Event) -> bool:
    """Poll ``check`` until it is true (True) or time is up (False). Raises Cancelled when ``cancel`` is set."""
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() >= deadline:
            return False
        if cancel.wait(_POLL):
            raise Cancelled
    return True


def processes_in(folder: Path) -> list[psutil.Process]:
    """The living processes whose working directory is ``folder``.

    Both parts work in a folder of their own, so this finds what a killed service left behind, and unlike a
    pid file it can never point at a stranger that got the same number.
    """
    wanted = os.path.realpath(folder)
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == wanted and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def end_processes(processes: list[psutil.Process], number: signal.Signals, timeout: float) -> bool:
    """Signal them all and wait; True when none is left."""
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue
    return not psutil.wait_procs(processes, timeout)[1]
