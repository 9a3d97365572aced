"""Who runs PostgreSQL when the service runs as root.

PostgreSQL refuses to run as root. As an ordinary user nothing here happens. As root the server runs as the
owner of the data folder if that is an ordinary user (so that a later start without root still works), else as
a system account of its own, else as ``nobody``.

Such an account cannot pass through a private home (``/root`` is 0700), and both DATA_DIR and the virtual
environment with PostgreSQL's binaries may lie below one. Opening the home to everyone, as the wheel's own
library does, is not acceptable. Instead the server keeps one capability, only when a file mode is really in
the way: CAP_DAC_READ_SEARCH for folders, CAP_DAC_OVERRIDE for binaries that only root may execute (installed
with a umask of 077). No file mode changes anywhere, and nothing is copied. The capability gives the server no
more than the service has, and its socket is reachable by root and itself only.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from .errors import EmbeddedStartError

ACCOUNT = "trackshift-pg"
# linux/capability.h
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_CAP_SETPCAP = 8

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Account:
    """The user a child runs as; ``capability`` is what it keeps of root's powers (None: nothing)."""

    uid: int
    gid: int
    name: str
    capability: int | None = None

    def own(self, path: Path) -> None:
        """Give ``path`` and all below it to this account. Links are changed, not followed."""
        if path.lstat().st_uid == self.uid:
            return
        for root, folders, files in os.walk(path):
            for name in folders + files:
                os.chown(f"{root}/{name}", self.uid, self.gid, follow_symlinks=False)
        # The top comes last: an interrupted change starts again.
        os.chown(path, self.uid, self.gid, follow_symlinks=False)


def account_for(data_dir: Path, cluster: Path, binaries: Path) -> Account | None:
    """The account for PostgreSQL, or None when this process is not root.

    Blocking (may run ``useradd``). Raises EmbeddedStartError when no account can reach the folders.
    """
    if os.geteuid() != 0:
        return None
    entry = _owner(cluster) or _owner(data_dir) or _system_account()
    server = binaries / "postgres"
    blocked = _blocking_folder(entry, data_dir / "x") or _blocking_folder(entry, server)
    usable: tuple[int, ...] = (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE)  # the first does less
    if not _runnable(entry, server):
        blocked, usable = blocked or binaries, (_CAP_DAC_OVERRIDE,)
    capability = _first_held(usable) if blocked is not None else None
    if blocked is not None and capability is None:
        raise EmbeddedStartError(
            "postgres",
            f"PostgreSQL does not run as root, and the user {entry.pw_name} cannot enter {blocked}. "
            "Run the service as an ordinary user, or set DATA_DIR and the virtual environment "
            "outside of private folders.",
        )
    return Account(entry.pw_uid, entry.pw_gid, entry.pw_name, capability)


def _owner(path: Path) -> pwd.struct_passwd | None:
    try:
        uid = path.stat().st_uid
        return pwd.getpwuid(uid) if uid != 0 else None
    except (FileNotFoundError, KeyError):
        return None  # initdb insists on a name for the user, so an owner without one is of no use


def _system_account() -> pwd.struct_passwd:
    try:
        with _one_at_a_time():
            if (found := _named(ACCOUNT)) is not None:
                return found
            useradd = shutil.which("useradd") or "/usr/sbin/useradd"
            command = [useradd, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
            subprocess.run([*command, "--shell", "/usr/sbin/nologin", ACCOUNT], check=True, capture_output=True, timeout=20)
            return pwd.getpwnam(ACCOUNT)
    except (OSError, subprocess.SubprocessError, KeyError) as error:
        # nobody is shared with other software, hence only second choice.
        _log.warning("embedded_account_fallback", account="nobody", reason=type(error).__name__)
        return pwd.getpwnam("nobody")


def _named(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Among all processes of this machine. Two `useradd` at once both succeed, and one takes the other's user away again."""
    folder = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _allows(entry: pwd.struct_passwd, info: os.stat_result, owner: int, group: int, other: int) -> bool:
    if info.st_uid == entry.pw_uid:
        return bool(info.st_mode & owner)
    if info.st_gid == entry.pw_gid:
        return bool(info.st_mode & group)
    return bool(info.st_mode & other)


def _blocking_folder(entry: pwd.struct_passwd, path: Path) -> Path | None:
    for folder in reversed(path.resolve().parents):
        if not folder.exists():
            continue
        if not _allows(entry, folder.stat(), stat.S_IXUSR, stat.S_IXGRP, stat.S_IXOTH):
            return folder
    return None


def _runnable(entry: pwd.struct_passwd, path: Path) -> bool:
    info = path.stat()
    return _allows(entry, info, stat.S_IRUSR, stat.S_IRGRP, stat.S_IROTH) and _allows(
        entry, info, stat.S_IXUSR, stat.S_IXGRP, stat.S_IXOTH
    )


def _first_held(capabilities: tuple[int, ...]) -> int | None:
    """The first that this process has and may pass on (``launch.py``); Docker's default set lacks READ_SEARCH."""
    if sys.platform != "linux":
        return None
    status = Path("/proc/self/status").read_text().splitlines()
    held = next(int(line.split()[1], 16) for line in status if line.startswith("CapPrm:"))
    if not held >> _CAP_SETPCAP & 1:
        return None
    return next((capability for capability in capabilities if held >> capability & 1), None)
