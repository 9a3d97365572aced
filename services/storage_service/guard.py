"""Who is asked before the bucket is changed. The answer is the bucket's marker (services/housekeeping/bucket_guard.py)."""

from __future__ import annotations

from typing import Protocol


class WriteGuard(Protocol):
    """Asked on the event loop before each call that writes or deletes: cheap, because it remembers the last poll."""

    async def may_write(self) -> None:
        """Raises StorageUnavailable: nothing may be stored in this bucket now."""

    async def may_delete(self) -> None:
        """Raises StorageUnavailable: nothing may be deleted from this bucket now."""


class Unguarded:
    """For an operator's commands (restore, `bucket adopt`), which judge the bucket themselves."""

    async def may_write(self) -> None:
        return

    async def may_delete(self) -> None:
        return
