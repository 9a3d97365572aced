"""The spool's folder on disk. Everything here blocks: it runs in the spool's own threads.

records/   one file a frame; names that begin with `.` are half-written
dead/      records that can never be stored, for a person to look at
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from services.spool.index import SpoolEntry
from services.spool.record import HEAD_BYTES, DamagedRecord, SpoolRecord, decode, decode_header, header_length

_HALF = "."  # prefix of names being written


class Files:
    """What the spool asks of the file system, each a step that a power cut may come before; tests put theirs in place."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def write(self, fd: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def sync_folder(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free(self, path: Path) -> int:
        """Bytes that are free for this process."""
        return shutil.disk_usage(path).free


@dataclass
class SpoolScan:
    """What a scan found: whole records, oldest first; what it put away."""

    entries: list[tuple[SpoolEntry, SpoolRecord]] = field(default_factory=list)
    half_written: int = 0
    damaged: int = 0


class SpoolFolder:
    """One process owns a folder (its lock is the spool's)."""

    def __init__(self, path: Path, files: Files | None = None) -> None:
        self.path = path
        self.records = path / "records"
        self.dead = path / "dead"
        self._files = files or Files()

    def open(self) -> None:
        """Makes the folders. Raises OSError."""
        for folder in (self.path, self.records, self.dead):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._files.sync_folder(self.path)

    def scan(self) -> SpoolScan:
        """Reads every record's head and header; removes what is half-written, moves damaged ones to dead/.

        The pictures' own checksums are compared when they are replayed. Raises OSError.
        """
        found = SpoolScan()
        for item in self._listed(self.records):
            path = self.records / item.name
            if item.name.startswith(_HALF):
                path.unlink(missing_ok=True)
                found.half_written += 1
                continue
            size = item.stat().st_size
            try:
                record = self._read_header(path, size)
            except DamagedRecord:
                self.bury(item.name)
                found.damaged += 1
                continue
            found.entries.append((entry_of(item.name, record, size), record))
        found.entries.sort(key=lambda pair: (pair[0].spooled_at, pair[0].slot))
        return found

    def scan_dead(self) -> list[tuple[str, int]]:
        """Names and sizes of dead records, oldest first."""
        found = [(item.stat().st_mtime, item.name, item.stat().st_size) for item in self._listed(self.dead)]
        return [(name, size) for _, name, size in sorted(found)]

    def write(self, name: str, parts: tuple[bytes, ...], reserve: int) -> None:
        """Writes a record; when it returns, the record outlives a power cut. Nothing is left of one that fails.

        Raises OSError; ENOSPC too when less than `reserve` bytes would stay free.
        """
        half, files = self.records / f"{_HALF}{name}", self._files
        if files.free(self.records) - sum(map(len, parts)) < reserve:
            raise OSError(28, "the reserve would not stay free")
        try:
            fd = files.create(half)
            try:
                for part in parts:
                    files.write(fd, part)
                files.sync(fd)
            finally:
                files.close(fd)
            files.rename(half, self.records / name)
            files.sync_folder(self.records)
        except BaseException:
            for path in (half, self.records / name):
                path.unlink(missing_ok=True)
            raise

    def read(self, name: str) -> tuple[SpoolRecord, bytes]:
        """A record and its picture. Raises DamagedRecord, OSError."""
        return decode((self.records / name).read_bytes())

    def remove(self, name: str) -> None:
        """Takes a record away. Should a power cut bring it back, its replay finds the slot filled."""
        (self.records / name).unlink(missing_ok=True)

    def bury(self, name: str) -> None:
        """Moves a record to dead/. Raises OSError."""
        self._files.rename(self.records / name, self.dead / name)
        self._files.sync_folder(self.dead)

    def remove_dead(self, name: str) -> None:
        (self.dead / name).unlink(missing_ok=True)

    @staticmethod
    def _listed(folder: Path) -> Iterator[os.DirEntry[str]]:
        with os.scandir(folder) as listing:
            yield from (item for item in listing if item.is_file(follow_symlinks=False))

    @staticmethod
    def _read_header(path: Path, size: int) -> SpoolRecord:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            return decode_header(head + file.read(header_length(head)), size)


def entry_of(name: str, record: SpoolRecord, size: int) -> SpoolEntry:
    """What the index keeps of a record of `size` bytes."""
    frame = record.frame
    return SpoolEntry(name, frame.request_id, frame.sequence, size, record.spooled_at.timestamp())
