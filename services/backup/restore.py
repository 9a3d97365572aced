"""A backup's parts put into an empty database, an empty bucket and an empty spool.

The steps, in an order that lets a restore that was cut off be run again:
1. an object in the bucket (MARK_KEY) says which backup is being restored, and the id that the event log will have;
2. objects, spool, keys: each of them may be written twice;
3. the rows, in one transaction: the database is empty, or has all of them. The event log has its new id in the same
   transaction, so that no cursor from before is ever good;
4. migrations, the bucket's marker (the bucket is this database's), a check of every stored byte;
5. MARK_KEY goes, when that check came to its end.

On one event loop; files are read in threads or in short steps between two of them. Longer than 250 lines: what is
checked before a change is to be read beside the steps that rely on it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg

from config import Settings
from repositories.database import Database
from repositories.migrations.run import downgrade, revisions, upgrade
from repositories.table_copy import Table, analyze, fill, overview_of
from services.backup.archive import ABSENT, KEYS, Archive, ArchiveFile, BackupError, StoredFrame
from services.backup.objects import CONCURRENCY, CopyProgress, side_by_side
from services.housekeeping.bucket_marker import BucketMarker
from services.housekeeping.secrets import KEY_FILE
from services.housekeeping.verifier import Report, Verifier, Wanted
from services.spool.folder import SpoolFolder
from services.spool.record import DamagedRecord, decode
from services.storage_service.keys import MARKER_KEY
from services.storage_service.service import StorageService
from utils.embedded.files import write_private
from utils.retrying import retry_unavailable
from utils.secret_box import SecretBox, is_key

MARK_KEY = ".trackshift/restore"
OWN_PREFIX = ".trackshift/"
_GONE_AT_ONCE = 1000  # ids


@dataclass(frozen=True, slots=True)
class Mark:
    """Which restore the bucket is in the middle of."""

    backup: UUID
    log_id: UUID

    @classmethod
    def read(cls, data: bytes) -> Mark:
        fields = json.loads(data)
        return cls(UUID(fields["backup"]), UUID(fields["log_id"]))

    def body(self) -> bytes:
        return json.dumps({name: str(value) for name, value in asdict(self).items()}).encode()


@dataclass(slots=True)
class Restored:
    """What was done; `left_out`: objects that the backup has not, or whose bytes are damaged there."""

    rows: int
    objects: int
    left_out: int
    spool: int
    log_id: UUID
    verified: Report

    @property
    def exit_code(self) -> int:
        return max(self.verified.exit_code, 1 if self.left_out else 0)


class Restore:
    """One restore of `archive`, on parts that no service runs on. `report(text)` is called as it goes on."""

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
        self._manifest = archive.manifest()
        self._spool = SpoolFolder(settings.spool_dir)

    async def run(self, *, objects: bool, without_key: bool) -> Restored:
        """Raises BackupError with nothing changed, or when a part cannot be written; DatabaseUnavailable,
        StorageUnavailable. Running it again goes on."""
        manifest = self._manifest
        if objects and manifest.objects is None:
            raise BackupError(
                "This backup holds no objects. Restore the bucket by its own means, and add --no-objects: the bucket "
                "becomes this database's, and objects in it that belong to no frame are deleted after SWEEPER__GRACE."
            )
        if manifest.revision not in revisions():
            raise BackupError(f"The backup's schema ({manifest.revision}) is newer than this version of the service.")
        self._report("checking the backup")
        await asyncio.to_thread(self._check_archive, objects)
        if not without_key:
            self._check_keys()
        await self._storage.ensure_bucket()
        mark, rows_done = await self._place(objects)
        await self._put(MARK_KEY, mark.body())

        copied, left_out = await self._restore_objects() if objects else (0, 0)
        spooled = await asyncio.to_thread(self._restore_spool)
        self._restore_keys()
        if not rows_done:
            await self._restore_rows(mark.log_id)
        await upgrade(self._settings.DB)
        await self._forget_lost_keys()
        await analyze(self._settings.DB)
        await BucketMarker(self._database, self._storage).adopt()

        self._report("verifying every stored frame")
        verifier = Verifier(
            self._database, self._storage, Wanted(orphans=True),
            lambda found: self._report(f"verified: {found.checked} frames, {found.checked - found.ok} not as stored"),
        )  # fmt: skip
        verified = await verifier.run(grace_s=-1)  # whatever its age: nothing is on its way into the bucket now
        if verified.error is None:
            await self._storage.delete(MARK_KEY)
        return Restored(sum(table.rows for table in manifest.tables), copied, left_out, spooled, mark.log_id, verified)

    # -- before anything is changed ----------------------------------------------------------------------------

    def _check_archive(self, objects: bool) -> None:
        """All but the objects: those are checked one by one as they are copied."""
        parts: list[ArchiveFile] = [*self._manifest.tables]
        if objects and self._manifest.objects is not None:
            parts += [self._manifest.objects.list, self._manifest.objects.absent]
        for part in parts:
            self._archive.check(part)
        records = 0
        for path in self._spool_files("records"):
            try:
                decode(path.read_bytes())
            except DamagedRecord as error:
                reason = f"spool/records/{path.name} is damaged ({error}): remove it to restore the rest."
                raise BackupError(reason) from None
            records += 1
        if records < self._manifest.spool.records:
            self._report(f"spool: {self._manifest.spool.records - records} records are missing in the backup")

    def _held(self) -> list[str]:
        """The ids of the keys that are here, or will be."""
        given = [key.get_secret_value() for key in self._settings.SECRETS.KEYS] or self._key_files()
        return SecretBox(given).key_ids if given else []

    async def _forget_lost_keys(self) -> None:
        """Nothing needs them, or --without-key gave them up: a service would claim nothing for want of them."""
        held = self._held()
        async with self._database.unit_of_work() as uow:
            for name in await uow.secrets.canaries():
                if name not in held:
                    await uow.secrets.forget_canary(name)

    def _check_keys(self) -> None:
        held = self._held()
        missing = {name: urls for name, urls in self._manifest.key_ids.items() if name not in held}
        if missing:
            named = ", ".join(f"{name} ({urls} URLs)" for name, urls in sorted(missing.items()))
            raise BackupError(
                f"The backup's camera URLs need keys that are not here: {named}. Add them to SECRETS__KEYS; if they are "
                "lost, --without-key restores the rest, and those URLs have to be set again."
            )

    async def _place(self, objects: bool) -> tuple[Mark, bool]:
        """The mark of this restore, and whether its rows are there already. Raises BackupError: the place is in use."""
        target = await overview_of(self._settings.DB)
        if target.services:
            raise BackupError("A service is connected to this database: stop it first.")
        try:
            head = await retry_unavailable(lambda: self._storage.head(MARK_KEY))
            mark = Mark.read(await retry_unavailable(lambda: self._storage.get(MARK_KEY))) if head is not None else None
        except (ValueError, KeyError, TypeError):
            raise BackupError(f"The object {MARK_KEY} in the bucket cannot be read: begin with an empty bucket.") from None
        if mark is not None and mark.backup != self._manifest.id:
            raise BackupError(
                f"The restore of another backup was begun in bucket {self._storage.bucket} and not finished: run that one "
                "again, or begin with an empty bucket and an empty database."
            )
        rows_done = mark is not None and target.log_id == mark.log_id
        if target.filled and not rows_done:
            raise BackupError(
                f"The database {self._settings.DB.NAME} is not empty ({', '.join(target.filled[:3])}): a restore goes into "
                "an empty one."
            )
        if mark is None:
            if objects:
                await self._check_bucket(target.log_id)
            if spooled := self._foreign_spool():
                raise BackupError(f"The spool {self._spool.path} is not empty ({spooled}): move its files away first.")
        return mark or Mark(self._manifest.id, uuid4()), rows_done

    async def _check_bucket(self, log_id: UUID | None) -> None:
        """Nothing may be in it but what a service's first start leaves there."""
        page, _ = await self._storage.list_page("", "")
        if any(not item.key.startswith(OWN_PREFIX) for item in page):
            raise BackupError(f"The bucket {self._storage.bucket} is not empty: a restore goes into an empty one.")
        owner = await BucketMarker(self._database, self._storage).read()
        if owner is not None and (isinstance(owner, str) or owner.log_id != log_id):
            raise BackupError(
                f"The bucket {self._storage.bucket} belongs to another database (object {MARKER_KEY}): use one of its own."
            )

    def _foreign_spool(self) -> str | None:
        """The name of a record that is not the backup's."""
        for kind in ("records", "dead"):
            ours = {path.name for path in self._spool_files(kind)}
            folder = self._spool.path / kind
            if folder.is_dir() and (left := {path.name for path in folder.iterdir()} - ours):
                return f"{kind}/{min(left)}"
        return None

    # -- the steps ---------------------------------------------------------------------------------------------

    async def _restore_objects(self) -> tuple[int, int]:
        """How many are in the bucket now, and how many the backup should have and has not."""
        counts: Counter[str] = Counter()
        # As many as were deleted while the backup was made.
        absent = {line[2] for line in self._archive.lines(ABSENT)}

        async def put(frame: StoredFrame) -> None:
            if frame.key in absent:
                return
            counts["copied" if await self._restore_object(frame) else "left_out"] += 1
            counts["bytes"] += frame.size

        progress = CopyProgress(self._report, lambda: f"objects: {counts['copied']}, {counts['bytes']} bytes")
        await side_by_side(self._archive.frames(), put, CONCURRENCY, progress)
        self._report(f"objects: {counts['copied']}, {counts['bytes']} bytes; left out: {counts['left_out']}")
        return counts["copied"], counts["left_out"]

    async def _restore_object(self, frame: StoredFrame) -> bool:
        path = self._archive.object_path(frame.key)
        try:
            found = await asyncio.to_thread(self._archive.digest, path)
        except OSError as error:
            self._report(f"left out: {frame.key}: {error.strerror}")
            return False
        if found != (frame.size, frame.sha256):
            self._report(f"left out: {frame.key}: its bytes are not those that were stored")
            return False
        await retry_unavailable(
            lambda: self._storage.put_file(frame.key, path, frame.size, frame.content_type, frame.sha256)
        )
        return True

    def _restore_spool(self) -> int:
        """Records keep their names, so a second run finds them."""
        count = 0
        try:
            self._spool.open()
            for kind, folder in (("records", self._spool.records), ("dead", self._spool.dead)):
                for path in self._spool_files(kind):
                    if not (folder / path.name).exists():
                        self._spool.write(path.name, (path.read_bytes(),), 0)
                        if kind == "dead":
                            self._spool.bury(path.name)
                    count += 1
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise BackupError(f"SPOOL__DIR {self._spool.path} cannot be written: {reason}.") from error
        return count

    def _restore_keys(self) -> None:
        """The backup's keys come first; those that a first start has made here stay behind them."""
        if not self._settings.SECRETS.KEYS and (keys := self._key_files()):
            try:
                write_private(self._settings.DATA_DIR / KEY_FILE, json.dumps(keys) + "\n")
            except OSError as error:
                raise BackupError(f"DATA_DIR/{KEY_FILE} cannot be written: {error.strerror}.") from error

    async def _restore_rows(self, log_id: UUID) -> None:
        self._report("rows")
        manifest, db = self._manifest, self._settings.DB
        if (await overview_of(db)).revision is not None:
            await downgrade(db, "base")  # a service has been started here: its schema may be a newer one
        await upgrade(db, manifest.revision)
        tables = ((Table(part.name, part.columns), _as_async(self._archive.chunks(part.file))) for part in manifest.tables)
        try:
            await fill(db, tables, manifest.sequences, log_id=log_id, gone=self._gone())
        except asyncpg.PostgresError as error:  # its text may quote rows
            raise BackupError(f"PostgreSQL refuses the backup's rows ({type(error).__name__}).") from None

    async def _gone(self) -> AsyncIterator[Sequence[UUID]]:
        batch: list[UUID] = []
        if self._manifest.objects is not None:
            for identity, kind, _ in self._archive.lines(self._manifest.objects.absent.file):
                if kind == "gone":
                    batch.append(UUID(identity))
                if len(batch) == _GONE_AT_ONCE:
                    yield batch
                    batch = []
        yield batch

    # -- what the steps share ----------------------------------------------------------------------------------

    def _spool_files(self, kind: str) -> list[Path]:
        folder = self._archive.path / "spool" / kind
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def _key_files(self) -> list[str]:
        """The keys of the backup, then those of DATA_DIR; each once. Raises BackupError for a file of another kind."""
        found: list[str] = []
        for path in (self._archive.path / KEYS, self._settings.DATA_DIR / KEY_FILE):
            try:
                keys = json.loads(path.read_text("utf-8"))
            except FileNotFoundError:
                continue
            except (OSError, ValueError):
                keys = None
            if not isinstance(keys, list) or not all(isinstance(key, str) and is_key(key) for key in keys):
                raise BackupError(f"{path} is damaged: it should be a JSON list of Fernet keys.")
            found += [key for key in keys if key not in found]
        return found

    async def _put(self, key: str, data: bytes) -> None:
        await retry_unavailable(lambda: self._storage.put(key, data, "application/json", hashlib.sha256(data).hexdigest()))


async def _as_async(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
