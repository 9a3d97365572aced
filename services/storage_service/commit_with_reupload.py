"""Commits whose objects the sweeper took between PUT and row: stored again under a fresh key (docs/rules.md, rule 7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from models.values import FrameRecord
from utils.exceptions import KeysCondemned, StorageUnavailable
from utils.logger import get_logger

T = TypeVar("T")
_TRIES = 3  # a key is condemned when its object is older than SWEEPER__GRACE: once is rare
log = get_logger(__name__)


async def commit_with_reupload(
    records: Sequence[FrameRecord],
    commit: Callable[[Sequence[FrameRecord]], Awaitable[T]],
    put_again: Callable[[FrameRecord], Awaitable[FrameRecord]],
) -> T:
    """Commits the records; `put_again` stores the bytes of those whose key is condemned under a new one.

    `commit` raises KeysCondemned with nothing committed. Raises what the two raise, and StorageUnavailable.
    """
    for _ in range(_TRIES):
        try:
            return await commit(records)
        except KeysCondemned as error:
            log.warning("keys_condemned", frames=len(error.keys))
            records = [await put_again(item) if item.storage_path in error.keys else item for item in records]
    raise StorageUnavailable("The object store's objects are taken before their rows are there. Try again.")
