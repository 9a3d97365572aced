"""The second step of a delete: objects first, with their thumbnails, then their rows' tombstones."""

from __future__ import annotations

from collections.abc import Sequence

from repositories.database import Database
from repositories.frames import Removal
from services.storage_service.keys import thumbnail_keys
from services.storage_service.service import StorageService
from utils.exceptions import StorageUnavailable
from utils.logger import get_logger
from utils.metrics import DELETE_LEFTOVERS

log = get_logger(__name__)


async def delete_objects(database: Database, storage: StorageService, marked: Sequence[Removal]) -> int:
    """Deletes the objects of frames that are marked, then finishes their rows; returns how many are done.

    What the store does not remove now stays `deleting`, and is tried again. Running it twice is fine. Raises
    DatabaseUnavailable.
    """
    if not marked:
        return 0
    keys = [item.key for item in marked]
    try:
        # Which thumbnails there are is nowhere written: one that is not there is fine. Those that stay are the sweeper's.
        left = set(await storage.delete_many([*keys, *(each for key in keys for each in thumbnail_keys(key))]))
    except StorageUnavailable:
        left = set(keys)
    gone = [item for item in marked if item.key not in left]
    if len(gone) < len(marked):
        DELETE_LEFTOVERS.inc(len(marked) - len(gone))
        first = next(item.id for item in marked if item.key in left)
        log.warning("delete_unfinished", frames=len(marked) - len(gone), frame_id=str(first))
    if gone:
        await database.retry_until_known(lambda uow: uow.frames.finish_deletes(gone))
    return len(gone)
