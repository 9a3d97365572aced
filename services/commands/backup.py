"""`backup` and `restore`: everything that a service keeps, in one folder, and out of it again."""

from __future__ import annotations

import json
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from config import Settings, get_settings
from repositories.database import Database
from services.backup.archive import KEYS, Archive, Manifest
from services.backup.backup import Backup
from services.backup.restore import Restore, Restored
from services.commands.running import T, connected, refuse, run
from services.execution.embedded_parts import StartError, start_embedded
from services.storage_service.service import StorageService
from utils.embedded.errors import DataDirLocked
from utils.embedded.lock import DataDirLock
from utils.logger import configure_logging, get_logger

log = get_logger(__name__)
_VERIFIED = ("checked", "ok", "missing", "mismatched", "orphans", "error")
Objects = typer.Option("--objects/--no-objects", help="Whether the bucket's objects are copied too.")


def backup(
    target: Annotated[Path, typer.Argument(help="A folder that is empty, or not there yet.")],
    objects: Annotated[bool, Objects] = True,
) -> None:
    """Copy rows, objects, spool and keys into a folder. The service may run.

    Prints one JSON object; progress goes to standard error. Exit codes: 0 all is in the backup; 1 the backup is finished,
    but objects are missing or damaged in the bucket (absent.gz names them); 2 there is no backup, and the message says why.
    With --no-objects the bucket has to be backed up by its own means, after this.
    """
    configure_logging("WARNING", "console")
    manifest = _run(_backup(get_settings(), target.absolute(), objects))
    if (target / KEYS).exists():
        _report(f"{target / KEYS} holds the keys of camera URLs: a person who reads this backup can read their passwords")
    print(json.dumps({"backup": str(target), **_summary(manifest)}))
    lost = manifest.objects is not None and manifest.objects.missing + manifest.objects.damaged
    raise typer.Exit(1 if lost else 0)


def restore(
    source: Annotated[Path, typer.Argument(help="A folder that `backup` has written.")],
    objects: Annotated[bool, Objects] = True,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Restore although keys of camera URLs are lost: set those URLs again.")
    ] = False,
) -> None:
    """Put a backup into an empty database and an empty bucket, and make the bucket the database's own.

    No service may run on them. The event log gets a new identity: consumers' cursors are answered 410. A restore that was
    cut off is run again with the same command. Prints one JSON object; progress goes to standard error. Exit codes: 0
    every frame is there; 1 the rest is restored, but objects of frames are missing or damaged (the JSON names them); 2 the
    restore was refused or cut off, and the message says why.
    """
    configure_logging("WARNING", "console")
    done = _run(_restore(get_settings(), Archive(source.absolute()), objects, without_key))
    if done.verified.orphans:
        _report(f"{done.verified.orphans} objects in the bucket belong to no frame; they go after SWEEPER__GRACE")
    found = {name: getattr(done, name) for name in ("rows", "objects", "left_out", "spool")}
    verified = {name: getattr(done.verified, name) for name in _VERIFIED}
    print(json.dumps({**found, "log_id": str(done.log_id), "verified": verified, "violations": done.verified.violations}))
    raise typer.Exit(done.exit_code)


async def _backup(settings: Settings, target: Path, objects: bool) -> Manifest:
    archive = Archive.create(target)
    async with connected(settings, "trackshift-backup") as (effective, database, storage):
        return await Backup(effective, database, storage, archive, _report).run(objects=objects)


async def _restore(settings: Settings, archive: Archive, objects: bool, without_key: bool) -> Restored:
    """Under the locks that a running service would have."""
    archive.manifest()  # before anything is started for it
    async with AsyncExitStack() as stack:
        effective = await start_embedded(settings, stack)
        _lock_spool(effective, stack)
        database, storage = Database(effective.DB, "trackshift-restore"), StorageService(effective.STORAGE)
        stack.push_async_callback(database.close)
        stack.push_async_callback(storage.close)
        return await Restore(effective, database, storage, archive, _report).run(objects=objects, without_key=without_key)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """As `run`; every other end is exit code 2 as well, since 1 says that the work is done."""
    try:
        return run(work)
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        refuse("Interrupted.")
    except Exception as error:
        log.exception("command_failed")
        refuse(f"The command itself failed: {type(error).__name__}.")


def _lock_spool(settings: Settings, stack: AsyncExitStack) -> None:
    lock = DataDirLock(settings.spool_dir)
    try:
        lock.acquire()
    except DataDirLocked as error:
        raise StartError(f"SPOOL__DIR {settings.spool_dir} is in use by a running service: stop it first.") from error
    except OSError as error:
        raise StartError(f"SPOOL__DIR {settings.spool_dir} cannot be used: {error.strerror}.") from error
    stack.callback(lock.release)


def _summary(manifest: Manifest) -> dict[str, Any]:
    hidden: Any = {"tables": True, "sequences": True, "objects": {"list", "absent"}}
    fields = manifest.model_dump(mode="json", exclude=hidden)
    return {**fields, "rows": sum(table.rows for table in manifest.tables)}


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
