"""A backup's folder.

    manifest.json      what is in it, with counts and checksums; written last: a folder without it is no backup
    rows/TABLE.gz      each table's rows as COPY text
    frames.gz          id, key, bytes, SHA-256, content type of each frame whose object belongs to the backup
    absent.gz          id, why, key of the frames whose object could not be copied
    objects/KEY        the objects' bytes
    spool/records/…    frames that are neither row nor object yet; spool/dead/…
    secrets.keys       DATA_DIR's keys, where SECRETS__KEYS was not set

All files are private (0600 in folders of 0700) and synced before the manifest names them. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple
from uuid import UUID

from pydantic import BaseModel, Field, ValidationError

from utils.embedded.files import fsync_folder, write_private

FORMAT = 1
MANIFEST, KEYS, FRAMES, ABSENT = "manifest.json", "secrets.keys", "frames.gz", "absent.gz"
CHUNK = 262_144  # bytes
_LEVEL = 3  # of gzip: rows shrink to a sixth; the highest level would save a tenth of that for five times the CPU


class BackupError(Exception):
    """A backup or a restore cannot be done. The message is for the operator and holds no secret."""


class ArchiveFile(BaseModel):
    """A file of the archive."""

    file: str = Field(pattern=r"^[A-Za-z0-9_]+(/[A-Za-z0-9_]+)?\.gz$")
    bytes: int
    sha256: str


class TablePart(ArchiveFile):
    name: str
    columns: list[str]
    rows: int


class ObjectsPart(BaseModel):
    """`frames` = `copied` + `gone` + `missing` + `damaged`."""

    frames: int  # stored frames of the snapshot
    copied: int
    bytes: int  # of the copied objects
    gone: int  # deleted after the snapshot, by retention or a client, before their objects were copied
    missing: int  # stored, and no object in the bucket
    damaged: int  # stored, and the bytes are not those of the row
    list: ArchiveFile
    absent: ArchiveFile


class SpoolPart(BaseModel):
    records: int
    dead: int
    bytes: int


class Manifest(BaseModel):
    format: Literal[1]
    id: UUID
    made_at: datetime
    version: str  # of the service
    revision: str  # of the schema
    postgresql: str
    log_id: UUID  # of the event log
    key_ids: dict[str, int]  # keys of SECRETS__KEYS that cameras and unfinished captures need, and how many URLs each opens
    tables: list[TablePart]  # in the order in which they can be filled
    sequences: dict[str, int]
    objects: ObjectsPart | None  # None: the backup was made with --no-objects
    spool: SpoolPart


class StoredFrame(NamedTuple):
    """A line of frames.gz."""

    id: UUID
    key: str
    size: int
    sha256: str
    content_type: str


class Archive:
    """The files of one backup below `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> Archive:
        """A new one. Raises BackupError unless `path` is an empty folder, or can be made one."""
        with _explained(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise BackupError(f"{path} is not empty: name a folder that is empty, or not there yet.")
        return cls(path)

    def manifest(self) -> Manifest:
        """Raises BackupError for a folder that is no whole backup, or one that this version cannot read."""
        with _explained(self.path):
            try:
                return Manifest.model_validate_json((self.path / MANIFEST).read_bytes())
            except FileNotFoundError:
                raise BackupError(f"{self.path} has no {MANIFEST}: it is no backup, or one that was not finished.") from None
            except ValidationError:
                raise BackupError(f"{self.path / MANIFEST} is damaged, or written by a newer version.") from None

    def finish(self, manifest: Manifest) -> None:
        with _explained(self.path):
            write_private(self.path / MANIFEST, manifest.model_dump_json(indent=1) + "\n")

    @property
    def free(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    # -- packed parts ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def packing(self, file: str) -> Iterator[gzip.GzipFile]:
        """A packed file to write to; on disk at the end of the block."""
        with self.writing(self.path / file) as raw, gzip.GzipFile("", "wb", _LEVEL, raw, 0) as packed:
            yield packed

    def packed(self, file: str) -> ArchiveFile:
        """What the manifest says of a packed file that has been written."""
        size, digest = self.digest(self.path / file)
        return ArchiveFile(file=file, bytes=size, sha256=digest)

    def check(self, part: ArchiveFile) -> None:
        """Raises BackupError unless the file is as it was written."""
        try:
            found = self.digest(self.path / part.file)
        except FileNotFoundError:
            raise BackupError(f"{part.file} is missing in the backup.") from None
        if found != (part.bytes, part.sha256):
            raise BackupError(f"{part.file} is damaged: its bytes are not those that were written.")

    def chunks(self, file: str) -> Iterator[bytes]:
        """The content of a packed file."""
        with gzip.open(self.path / file) as packed:
            while chunk := packed.read(CHUNK):
                yield chunk

    def lines(self, file: str) -> Iterator[list[str]]:
        """The lines of a packed file, each as its fields."""
        with gzip.open(self.path / file, "rt", encoding="utf-8", newline="\n") as packed:
            for line in packed:
                yield line.rstrip("\n").split("\t")

    def frames(self) -> Iterator[StoredFrame]:
        for identity, key, size, sha256, content_type in self.lines(FRAMES):
            yield StoredFrame(UUID(identity), key, int(size), sha256, content_type)

    # -- files -------------------------------------------------------------------------------------------------

    def object_path(self, key: str) -> Path:
        """Where an object's bytes are. Raises BackupError for a key that would lead out of the folder."""
        parts = key.split("/")
        if not all(parts) or any(part.strip(".") == "" for part in parts):
            raise BackupError("The backup names an object key that is none of this service's.")
        return self.path.joinpath("objects", *parts)

    @contextlib.contextmanager
    def writing(self, path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
        """A new private file, on disk at the end of the block (without `sync`: only written); removed when the block
        raises. Raises BackupError."""
        with _explained(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    yield file
                if sync:
                    self.sync(path)
            except BaseException:
                path.unlink(missing_ok=True)
                raise

    @staticmethod
    def sync(path: Path) -> None:
        """Puts a file that has been written on disk, and its name. Raises BackupError."""
        with _explained(path):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            fsync_folder(path.parent)

    @staticmethod
    def digest(path: Path) -> tuple[int, str]:
        """Bytes and SHA-256 of a file."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return file.tell(), digest


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackupError(f"{path}: {error.strerror or type(error).__name__}.") from error
