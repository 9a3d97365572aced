"""A backup of everything that a service keeps, made while it runs.

The order makes the parts fit:
1. the spool: a frame that is stored while the backup runs is then a record or a row in it, or both, never neither;
2. the rows, all of one moment (a snapshot), and with them the list of stored frames;
3. the objects that this list names. Objects never change, and a delete is two steps (row, then object). A frame that is
   deleted in between is `gone`: the manifest counts it, absent.gz names it, and a restore goes on with that delete.

Memory is bounded: rows and objects pass through in pieces. On one event loop; files are written in threads or in short
steps between two of them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from gzip import GzipFile
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from config import VERSION, DbSettings, Settings
from models.access import ALL_CAMERAS
from repositories.database import Database
from repositories.migrations.steps import revisions
from repositories.table_copy import Write, overview_of, snapshot
from services.backup.archive import (
    ABSENT,
    FRAMES,
    KEYS,
    Archive,
    BackupError,
    Manifest,
    ObjectsPart,
    SpoolPart,
    StoredFrame,
    TablePart,
)
from services.backup.objects import CONCURRENCY, CopyProgress, side_by_side
from services.housekeeping.secrets import KEY_FILE
from services.spool.record import DamagedRecord, decode
from services.storage_service.service import StorageService
from utils.exceptions import ObjectMissing, RangeNotSatisfiable
from utils.retrying import retry_unavailable

Absent = Literal["gone", "missing", "damaged"]


class Backup:
    """One backup into `archive`. `report(text)` is called as it goes on."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        storage: StorageService,
        archive: Archive,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._storage = storage
        self._archive = archive
        self._report = report

    async def run(self, *, objects: bool) -> Manifest:
        """Raises BackupError, DatabaseUnavailable, StorageUnavailable: the folder has no manifest then."""
        overview = await overview_of(self._settings.DB)
        if overview.revision != revisions()[0] or overview.log_id is None:
            raise BackupError("The database's schema is not this version's: start the service once, it migrates.")
        spool = await asyncio.to_thread(self._copy_spool)
        if spool.records or spool.dead:
            self._report(f"spool: {spool.records} records, {spool.dead} dead ones")
        rows = await self._copy_rows(self._settings.DB, objects)
        manifest = Manifest(
            format=1, id=uuid4(), made_at=datetime.now(UTC), version=VERSION, revision=overview.revision,
            log_id=overview.log_id, spool=spool, objects=await self._copy_objects() if objects else None, **rows,
        )  # fmt: skip
        self._copy_keys()
        self._archive.finish(manifest)
        return manifest

    # -- rows --------------------------------------------------------------------------------------------------

    async def _copy_rows(self, db: DbSettings, objects: bool) -> dict[str, Any]:
        """The fields of the manifest that are of the snapshot."""
        async with snapshot(db) as rows:
            if objects and (wanted := await rows.stored_bytes()) > self._archive.free:
                raise BackupError(f"{self._archive.path} has {self._archive.free} bytes free, the objects have {wanted}.")
            tables = []
            for table in await rows.tables():
                file = f"rows/{table.name}.gz"
                with self._archive.packing(file) as packed:
                    count = await rows.copy(table, _write_to(packed))
                part = self._archive.packed(file)
                tables.append(TablePart(**part.model_dump(), name=table.name, columns=table.columns, rows=count))
                self._report(f"{table.name}: {count} rows")
            if objects:
                with self._archive.packing(FRAMES) as packed:
                    await rows.copy_stored_frames(_write_to(packed))
            return {
                "tables": tables, "sequences": await rows.sequences(), "key_ids": await rows.key_ids(),
                "postgresql": await rows.server_version(),
            }  # fmt: skip

    # -- objects -----------------------------------------------------------------------------------------------

    async def _copy_objects(self) -> ObjectsPart:
        counts: Counter[str] = Counter()
        with self._archive.packing(ABSENT) as absent:

            async def copy(frame: StoredFrame) -> None:
                outcome = await self._copy_object(frame)
                counts["frames"] += 1
                counts[outcome] += 1
                if outcome == "copied":
                    counts["bytes"] += frame.size
                else:
                    absent.write(f"{frame.id}\t{outcome}\t{frame.key}\n".encode())

            progress = CopyProgress(self._report, lambda: f"objects: {counts['frames']} frames, {counts['bytes']} bytes")
            await side_by_side(self._archive.frames(), copy, CONCURRENCY, progress)
        named = {name: counts[name] for name in ("frames", "copied", "bytes", "gone", "missing", "damaged")}
        return ObjectsPart(**named, list=self._archive.packed(FRAMES), absent=self._archive.packed(ABSENT))

    async def _copy_object(self, frame: StoredFrame) -> Literal["copied"] | Absent:
        path = self._archive.object_path(frame.key)
        try:
            if await retry_unavailable(lambda: self._download(frame, path)):
                return "copied"
            await asyncio.to_thread(path.unlink)
            absent: Absent = "damaged"
        except (ObjectMissing, RangeNotSatisfiable):
            absent = "missing"
        return absent if await retry_unavailable(lambda: self._still_stored(frame)) else "gone"

    async def _download(self, frame: StoredFrame, path: Path) -> bool:
        """Whether the object's bytes are those of the row; the file is written whole either way."""
        digest = hashlib.sha256()
        with self._archive.writing(path, sync=False) as file:
            async with aclosing(self._storage.read_range(frame.key, 0, frame.size)) as chunks:
                async for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
        await asyncio.to_thread(self._archive.sync, path)
        return digest.hexdigest() == frame.sha256

    async def _still_stored(self, frame: StoredFrame) -> bool:
        async with self._database.unit_of_work(events=False) as uow:
            return await uow.frames.get_stored(frame.id, ALL_CAMERAS) is not None

    # -- what is on this machine alone -------------------------------------------------------------------------

    def _copy_spool(self) -> SpoolPart:
        """Records are whole files that never change; one that leaves meanwhile has been stored."""
        counts: Counter[str] = Counter()
        for kind in ("records", "dead"):
            folder = self._settings.spool_dir / kind
            try:
                names = sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
            except FileNotFoundError:
                continue  # never a spool here
            except OSError as error:
                raise BackupError(f"{folder}: {error.strerror}. Run this as the service's user.") from error
            for name in names:
                try:
                    content = (folder / name).read_bytes()
                    if kind == "records":
                        decode(content)
                except FileNotFoundError:
                    continue
                except DamagedRecord:
                    self._report(f"spool: {name} is damaged, and left out")
                    continue
                except OSError as error:
                    raise BackupError(f"{folder / name}: {error.strerror}.") from error
                with self._archive.writing(self._archive.path / "spool" / kind / name) as file:
                    file.write(content)
                counts[kind] += 1
                counts["bytes"] += len(content)
        return SpoolPart(records=counts["records"], dead=counts["dead"], bytes=counts["bytes"])

    def _copy_keys(self) -> None:
        if self._settings.SECRETS.KEYS:
            return
        try:
            text = (self._settings.DATA_DIR / KEY_FILE).read_text("utf-8")
        except FileNotFoundError:
            return  # no service has run here
        except OSError as error:
            raise BackupError(f"{self._settings.DATA_DIR / KEY_FILE}: {error.strerror}.") from error
        with self._archive.writing(self._archive.path / KEYS) as file:
            file.write(text.encode())


def _write_to(packed: GzipFile) -> Write:
    async def write(data: bytes) -> None:
        packed.write(data)

    return write
