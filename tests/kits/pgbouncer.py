"""Debian's PgBouncer in front of a test's PostgreSQL, with its defaults: no `ignore_startup_parameters`.

It refuses to run as root and gets another account then; `make pgbouncer` installs it, PGBOUNCER names another one.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from config import DbSettings
from tests.conftest import free_port
from tests.kits.tcp_proxy import TcpProxy

SMALL_POOL = 4  # connections to PostgreSQL: clients have to share them


def binary() -> str:
    """The program; without one the test is skipped, and in CI it fails."""
    found = os.environ.get("PGBOUNCER") or shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found:
        return found
    reason = "no PgBouncer: `make pgbouncer` installs it (as root), or name one: PGBOUNCER=/path"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def pgbouncer(db: DbSettings, mode: Literal["session", "transaction"], pool_size: int = SMALL_POOL) -> Iterator[DbSettings]:
    """PgBouncer in `mode` in front of `db`'s server, for all its databases; yields the settings of its clients."""
    program, port = binary(), free_port()
    # It refuses to run as root, and another account cannot come to the socket of an embedded PostgreSQL.
    account = pwd.getpwnam("nobody") if os.getuid() == 0 else None
    password = db.PASSWORD.get_secret_value()
    with contextlib.ExitStack() as stack:
        host, server_port = db.HOST, db.PORT
        if host.startswith("/"):
            host, server_port = "127.0.0.1", stack.enter_context(TcpProxy(db.HOST, db.PORT)).port
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgbouncer-", ignore_cleanup_errors=True)))
        (folder / "users").write_text(f'"{db.USER}" "{password}"\n')
        (folder / "ini").write_text(
            f"[databases]\n* = host={host} port={server_port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\npool_mode = {mode}\n"
            f"auth_type = {'scram-sha-256' if password else 'trust'}\nauth_file = {folder}/users\n"
            f"default_pool_size = {pool_size}\nlogfile = {folder}/log\npidfile = {folder}/pid\n"
        )
        if account is not None:
            for path in (folder, *folder.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)
        child = subprocess.Popen(
            [program, "-q", str(folder / "ini")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, user=account.pw_uid if account else None, group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )  # fmt: skip
        try:
            _wait(child, port, folder / "log")
            yield db.model_copy(update={"HOST": "127.0.0.1", "PORT": port, "SSL": "disable", "POOLER": mode})
        finally:
            child.kill()  # at once, whoever is connected; a run in a shell's background has SIGQUIT ignored
            child.wait(10)


def _wait(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        text = log.read_text() if log.exists() else ""
        assert child.poll() is None, f"PgBouncer ended:\n{text}"
        assert time.monotonic() < deadline, f"PgBouncer does not listen:\n{text}"
        time.sleep(0.02)
