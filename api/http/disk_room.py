"""Whether the disk has room for uploads that need none themselves: what holds for all uploads holds for those in memory."""

from __future__ import annotations

import time

from utils.exceptions import DiskFull
from utils.pool import WorkerPool
from utils.temp_folder import TempRoot

_KNOWN_FOR = 1.0  # seconds


class DiskRoom:
    """Belongs to the event loop; asks the file system, which may block, in a thread, once a second at most."""

    def __init__(self, root: TempRoot, reserve: int, pool: WorkerPool) -> None:
        self._root, self._reserve, self._pool = root, reserve, pool
        self._free, self._asked = 0, float("-inf")

    async def check(self, expected: int) -> None:
        """Raises DiskFull when `expected` bytes would not leave the disk reserve."""
        if time.monotonic() - self._asked > _KNOWN_FOR:
            try:
                self._free = await self._pool.run(self._ask)
            except OSError:
                raise DiskFull("The folder for uploads cannot be used. Nothing was stored.") from None
            self._asked = time.monotonic()
        if self._free - expected < self._reserve:
            raise DiskFull("Less than UPLOAD__DISK_RESERVE would be left for this upload. Nothing was stored.")

    def _ask(self) -> int:
        self._root.open()
        return self._root.free()
