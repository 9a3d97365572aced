"""Thumbnails whose frame is gone: what a crash between a thumbnail's PUT and its frame's deletion leaves. The sweeper's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from repositories.database import Database
from services.storage_service.bucket import ListedObject
from services.storage_service.keys import THUMBNAILS_PREFIX, frame_key_of
from services.storage_service.service import StorageService

DEPTH = 4  # folders below the prefix: year, month, day, camera


async def pages(
    storage: StorageService, prefix: str = THUMBNAILS_PREFIX, depth: int = DEPTH
) -> AsyncIterator[list[ListedObject]]:
    """All thumbnails, folder by folder, at most 1000 at once. Raises StorageUnavailable."""
    if depth:
        for name in sorted(await storage.list_folders(prefix)):
            async for page in pages(storage, f"{prefix}{name}/", depth - 1):
                yield page
        return
    after, more = "", True
    while more:
        page, more = await storage.list_page(prefix, after)
        if page:
            yield page
            after = page[-1].key


async def leftovers(database: Database, page: list[ListedObject], old: Callable[[ListedObject], bool]) -> list[str]:
    """Keys of the page's old thumbnails of ours whose frame is not stored. Raises DatabaseUnavailable."""
    frames = {item.key: key for item in page if old(item) and (key := frame_key_of(item.key)) is not None}
    if not frames:
        return []
    async with database.one_statement() as uow:
        stored = await uow.object_keys.stored(sorted(set(frames.values())))
    return [key for key, frame in frames.items() if frame not in stored]
