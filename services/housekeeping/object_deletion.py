"""The second step of a delete: objects first, then their rows' tombstones."""

from __future__ import annotations

from collections.abc import Sequence

from repositories.database import Database
from repositories.frames import Removal
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
    try:
        if len(marked) == 1:
            await storage.delete(marked[0].key)
            left: set[str] = set()
        else:
            left = set(await storage.delete_many([item.key for item in marked]))
    except StorageUnavailable:
        left = {item.key for item in marked}
    gone = [item for item in marked if item.key not in left]
    if left:
        DELETE_LEFTOVERS.inc(len(left))
        log.warning("delete_unfinished", frames=len(left), frame_id=str(next(i.id for i in marked if i.key in left)))
    if gone:
        await database.retry_until_known(lambda uow: uow.frames.finish_deletes(gone))
    return len(gone)
