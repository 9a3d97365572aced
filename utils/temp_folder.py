"""A folder for temporary files that its process owns: what a dead process left is removed at the next start.

Inside a parent that several processes may share, each has one folder `ingest-XXXXXXXX` (0700) with a file that it holds
an flock on. The kernel releases that lock when the holder dies, however it died: a folder whose lock can be taken has
nobody, one whose lock cannot is somebody's, whatever the clock, pids and restarts of the machine say.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "ingest-"
OWNER_FILE = ".owner"


@contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """One process at a time makes or removes folders: a folder whose lock is not taken yet has no owner to be seen."""
    fd = os.open(parent / f".{PREFIX}{os.getuid()}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _is_ours(path: Path) -> bool:
    found = path.lstat()  # not the target of a link
    return path.is_dir() and not path.is_symlink() and found.st_uid == os.getuid()


def _abandoned(path: Path) -> bool:
    """Whether no living process holds the folder. Raises OSError."""
    try:
        fd = os.open(path / OWNER_FILE, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:  # its process died in making it, or in removing it
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


class TempRoot:
    """The folder of one process under `parent`. Any thread; its methods block."""

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._fd: int | None = None

    def open(self) -> int:
        """Removes the folders of dead processes, returns how many; then makes this process's own. Raises OSError."""
        with self._lock:
            if self._path is not None:
                return 0
            self.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.parent):
                removed = self._remove_abandoned()
                path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self.parent))
                try:
                    fd = os.open(path / OWNER_FILE, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)  # not for children
                except OSError:
                    shutil.rmtree(path, ignore_errors=True)
                    raise
                fcntl.flock(fd, fcntl.LOCK_EX)
            self._path, self._fd = path, fd
            return removed

    def folder(self, prefix: str) -> Path:
        """A new folder (0700) in this process's own, which is made when it is not there. Raises OSError."""
        self.open()
        assert self._path is not None
        return Path(tempfile.mkdtemp(prefix=prefix, dir=self._path))

    def free(self) -> int:
        """Bytes that can still be written here. Raises OSError."""
        return shutil.disk_usage(self.parent).free

    def close(self) -> None:
        """Removes the folder with all that is in it. Repeating it is fine."""
        with self._lock:
            if self._path is not None:
                shutil.rmtree(self._path, ignore_errors=True)
                self._path = None
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _remove_abandoned(self) -> int:
        removed = 0
        for path in self.parent.glob(f"{PREFIX}*"):
            try:
                if _is_ours(path) and _abandoned(path):
                    shutil.rmtree(path, ignore_errors=True)
                    removed += 1
            except OSError:  # no permission, or somebody else removed it: not ours to judge
                continue
        return removed
