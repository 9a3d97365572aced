"""One service a DATA_DIR.

Two services on one folder would start two PostgreSQL servers on the same files. An ``flock`` is used, not a
pid file that somebody has to delete: the kernel releases it at the holder's death, however it died.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from .errors import DataDirLocked

LOCK_FILE = ".lock"


class DataDirLock:
    """The exclusive lock on ``data_dir`` (``data_dir/.lock``; the file stays, only the lock goes).

    Not thread-safe: one owner acquires and releases. ``acquire`` raises :class:`DataDirLocked` at once when
    the lock is held, by another process or by another object of this one, and OSError when the folder
    cannot be made or written.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self._fd: int | None = None

    def acquire(self) -> None:
        if self._fd is not None:
            return
        self.data_dir.mkdir(parents=True, exist_ok=True)
        # O_CLOEXEC is Python's default: a child that outlives us must not keep the lock.
        fd = os.open(self.data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).strip()
            os.close(fd)
            raise DataDirLocked(self.data_dir, int(holder) if holder.isdigit() else None) from None
        except BaseException:
            os.close(fd)
            raise
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Let go; a no-op when not held. The file is left: unlinking it would let two owners lock two files."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None

    @property
    def held(self) -> bool:
        return self._fd is not None

    def __enter__(self) -> DataDirLock:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()
