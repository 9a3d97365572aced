"""Objects and rows side by side, a bounded piece at a time.

Servers do not agree on the order of keys: S3 and MinIO list by bytes (`a-b/1` before `a/1`), SeaweedFS folder by folder
(`a/1` before `a-b/1`). So the walk goes by folders, `frames/yyyy/mm/dd/camera/`, in an order of its own; inside one all
are of one mind. Folders are those that the store lists and those that rows name: one whose objects are all gone is
visited too. Objects whose key this service could not have made are none of ours: they are not counted, and left alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import NamedTuple

from repositories.database import Database
from repositories.object_keys import KeyedRow
from services.storage_service.bucket import ListedObject
from services.storage_service.keys import FRAMES_PREFIX, is_frame_key
from services.storage_service.service import StorageService

DEPTH = 4  # folders below it: year, month, day, camera
PAGE = 1000  # rows at once
END = "\U0010ffff"  # sorts behind every name


class Window(NamedTuple):
    """What the store has of one folder with after < key <= upto; `upto` is where a walk that was cut off goes on."""

    objects: Sequence[ListedObject]
    after: str
    upto: str


class ComparedBatch(NamedTuple):
    orphans: list[ListedObject]  # objects without a row, of any age
    seen: int  # objects under keys of ours
    suspects: list[KeyedRow]  # stored frames whose object is not in the listing, or of another size
    healed: list[KeyedRow]  # frames that were flagged and are as they should be


async def windows(database: Database, storage: StorageService, cursor: str = "") -> AsyncGenerator[Window, None]:
    """All pieces behind `cursor`: "" at first, later the last one's `upto`.

    Raises StorageUnavailable, DatabaseUnavailable.
    """
    floor = cursor.removeprefix(FRAMES_PREFIX).split("/")[:DEPTH] if cursor else []
    async for folder in _folders(database, storage, FRAMES_PREFIX, DEPTH, floor):
        after = cursor if cursor.startswith(folder) else ""
        while not after.endswith(END):
            objects, more = await storage.list_page(folder, after)
            upto = objects[-1].key if more and objects else folder + END
            yield Window(objects, after or folder, upto)
            after = upto


async def _folders(
    database: Database, storage: StorageService, prefix: str, depth: int, floor: Sequence[str]
) -> AsyncIterator[str]:
    """The folders `depth` levels below the prefix, name by name, from the one that `floor` names on."""
    if depth == 0:
        yield prefix
        return
    async with database.one_statement() as uow:
        names = set(await uow.object_keys.folders(prefix))
    names |= set(await storage.list_folders(prefix))
    for name in sorted(names):
        if floor and name < floor[0]:
            continue
        below = floor[1:] if floor and name == floor[0] else ()
        async for folder in _folders(database, storage, f"{prefix}{name}/", depth - 1, below):
            yield folder


async def compare(database: Database, window: Window) -> ComparedBatch:
    """The window's objects and the rows of the same keys. Raises DatabaseUnavailable.

    Rows are read after the listing: a frame that came in between has its row, and one that went has its object still
    listed, as its key's row in `object_keys` then says.
    """
    unseen = {item.key: item for item in window.objects if is_frame_key(item.key)}
    found = ComparedBatch([], len(unseen), [], [])
    after = window.after
    while True:
        async with database.one_statement() as uow:
            rows = await uow.object_keys.rows_between(after, window.upto, PAGE)
        for row in rows:
            item = unseen.pop(row.key, None)
            if row.state != "stored":
                continue
            if item is None or item.size != row.size_bytes:
                found.suspects.append(row)
            elif row.flagged is not None:
                found.healed.append(row)
        if len(rows) < PAGE:
            break
        after = rows[-1].key
    found.orphans.extend(unseen.values())
    return found


def age(item: ListedObject) -> float:
    """Seconds since the object was written, by the store's clock alone."""
    return (item.store_time - item.last_modified).total_seconds()
