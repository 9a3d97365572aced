"""The temporary folder of one upload. Threads write and remove it; the event loop never does."""

from __future__ import annotations

import errno
import hashlib
import shutil
import threading
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import IO

from models.values import ReceivedFile
from utils.exceptions import DiskFull, Overloaded
from utils.temp_folder import TempRoot

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_FILES = (errno.EMFILE, errno.ENFILE)


class FileAction(Enum):
    WRITE = "write"
    CLOSE = "close"
    DISCARD = "discard"


@dataclass(eq=False)
class FilePart:
    """One file part. Threads own `handle`, and `digest` of one on its way to disk; the loop reads them at the end."""

    index: int
    filename: str
    declared_type: str | None
    size: int = 0
    too_large: bool = False
    path: Path = field(default_factory=Path)
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    handle: IO[bytes] | None = None

    def received(self) -> ReceivedFile:
        """The file as the orchestrator takes it. Only after the part was closed."""
        return ReceivedFile(
            self.index, self.filename, self.declared_type, self.path, self.size, self.digest.hexdigest(), self.too_large
        )


FileOperation = tuple[FileAction, FilePart, bytes]


def in_memory(operations: list[FileOperation], files: list[FilePart]) -> list[ReceivedFile]:
    """The files of an upload whose operations were kept, all of them, instead of applied."""
    parts: dict[int, list[bytes]] = {file.index: [] for file in files}
    for kind, file, data in operations:
        if kind is FileAction.WRITE:
            parts[file.index].append(data)
        elif kind is FileAction.DISCARD:
            parts[file.index].clear()
    return [replace(file.received(), data=b"".join(parts[file.index])) for file in files]


class UploadFolder:
    """A folder with mode 0700; for threads. After `remove`, a late `apply` of a cancelled upload does nothing."""

    def __init__(self, root: TempRoot, reserve: int) -> None:
        self._root = root
        self._reserve = reserve
        self._path: Path | None = None
        self._lock = threading.Lock()
        self._removed = False
        self._open: list[FilePart] = []
        self._made: list[Path] = []

    def create(self, expected: int) -> None:
        """Makes the folder.

        Raises DiskFull when `expected` bytes would not leave the disk reserve, Overloaded when the process has no file
        descriptor left.
        """
        with self._lock:
            if self._removed:
                return
            try:
                self._root.open()
                self._check_room(expected)
                self._path = self._root.folder("upload-")
            except OSError as error:
                raise self._translated(error) from error

    def apply(self, operations: list[FileOperation]) -> None:
        """Does the operations in order. Raises DiskFull, Overloaded."""
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
        """Closes and removes all files and the folder; may be called at any time and more than once."""
        with self._lock:
            self._removed = True
            for file in self._open:
                if file.handle is not None:
                    try:
                        file.handle.close()
                    except OSError:  # what it still held in memory found no room
                        pass
            if self._path is None:
                return
            try:
                for path in self._made:  # by name: rmtree opens the folder, which needs a free descriptor
                    path.unlink(missing_ok=True)
                self._path.rmdir()
            except OSError:
                shutil.rmtree(self._path, ignore_errors=True)

    def _one(self, kind: FileAction, file: FilePart, data: bytes) -> None:
        assert self._path is not None
        if file.handle is None:
            file.path = self._path / str(file.index)  # nothing of the client's becomes a path
            self._made.append(file.path)
            file.handle = file.path.open("wb")
            self._open.append(file)
        if kind is FileAction.WRITE:
            file.handle.write(data)
            file.digest.update(data)
        elif kind is FileAction.DISCARD:
            file.handle.truncate(0)
        else:
            file.handle.close()
            self._open.remove(file)

    def _check_room(self, expected: int) -> None:
        if self._root.free() - expected < self._reserve:
            raise DiskFull("Less than UPLOAD__DISK_RESERVE would be left for this upload. Nothing was stored.")

    @staticmethod
    def _translated(error: OSError) -> Exception:
        if error.errno in _NO_FILES:
            return Overloaded("The service has as many files and connections open as it may. Try again.")
        return DiskFull() if error.errno in _NO_SPACE else error


class StagedFile:
    """The one file of a direct upload, written as the staging object is read. Its methods are for threads."""

    def __init__(self, folder: UploadFolder, filename: str, declared_type: str | None) -> None:
        self._folder = folder
        self._file = FilePart(0, filename, declared_type)

    def write(self, data: bytes) -> None:
        """Raises DiskFull, Overloaded."""
        self._file.size += len(data)
        self._folder.apply([(FileAction.WRITE, self._file, data)])

    def received(self) -> ReceivedFile:
        """Closes the file. Raises DiskFull."""
        self._folder.apply([(FileAction.CLOSE, self._file, b"")])
        return self._file.received()
