"""The temporary folder of one upload: written and removed by threads, never by the event loop."""

from __future__ import annotations

import errno
import hashlib
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import IO

from utils.exceptions import DiskFull

_PREFIX = "upload-"
_STALE = 24 * 3600  # seconds; another process may be receiving into a younger one
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Op(Enum):
    WRITE = "write"
    CLOSE = "close"
    DISCARD = "discard"


@dataclass(eq=False)
class SpooledFile:
    """One file part on its way to disk. Threads own `handle` and `digest`; the event loop reads them at the end."""

    index: int
    filename: str
    declared_type: str | None
    size: int = 0
    too_large: bool = False
    path: Path = field(default_factory=Path)
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    handle: IO[bytes] | None = None


Operation = tuple[Op, SpooledFile, bytes]


class UploadFolder:
    """A 0700 folder. After `remove` a late `apply` of a cancelled upload does nothing."""

    def __init__(self, parent: Path, reserve: int) -> None:
        self._parent = parent
        self._reserve = reserve
        self._path: Path | None = None
        self._lock = threading.Lock()
        self._removed = False
        self._open: list[SpooledFile] = []

    def create(self, expected: int) -> None:
        """Makes the folder. Raises DiskFull when `expected` bytes would eat into the reserve."""
        with self._lock:
            if self._removed:
                return
            try:
                self._parent.mkdir(parents=True, exist_ok=True)
                self._check_room(expected)
                self._path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent))
            except OSError as error:
                raise self._translated(error) from error

    def apply(self, operations: list[Operation]) -> None:
        """Writes, in order. Raises DiskFull."""
        with self._lock:
            if self._removed or self._path is None:
                return
            try:
                self._check_room(sum(len(data) for _, _, data in operations))
                for kind, file, data in operations:
                    self._one(kind, file, data)
            except OSError as error:
                raise self._translated(error) from error

    def remove(self) -> None:
        """Closes and removes everything; safe at any time and twice."""
        with self._lock:
            self._removed = True
            for file in self._open:
                if file.handle is not None:
                    file.handle.close()
            if self._path is not None:
                shutil.rmtree(self._path, ignore_errors=True)

    def _one(self, kind: Op, file: SpooledFile, data: bytes) -> None:
        assert self._path is not None
        if file.handle is None:
            file.path = self._path / str(file.index)  # nothing of the client's becomes a path
            file.handle = file.path.open("wb")
            self._open.append(file)
        if kind is Op.WRITE:
            file.handle.write(data)
            file.digest.update(data)
        elif kind is Op.DISCARD:
            file.handle.truncate(0)
        else:
            file.handle.close()
            self._open.remove(file)

    def _check_room(self, expected: int) -> None:
        if shutil.disk_usage(self._parent).free - expected < self._reserve:
            raise DiskFull("Less than UPLOAD__DISK_RESERVE would be left for this upload. Nothing was stored.")

    @staticmethod
    def _translated(error: OSError) -> Exception:
        return DiskFull() if error.errno in _NO_SPACE else error


def remove_stale(parent: Path) -> int:
    """Removes folders that a killed process left behind a day ago or more; how many."""
    removed = 0
    if not parent.is_dir():
        return removed
    for path in parent.glob(f"{_PREFIX}*"):
        try:
            if time.time() - path.lstat().st_mtime > _STALE and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
                removed += 1
        except OSError:  # another process was faster
            continue
    return removed
