"""PostgreSQL and an S3 store that need no installation: each a child process over a folder of DATA_DIR.

For a laptop, a demo and the tests. Production sets ``DB__*`` and ``STORAGE__*`` and starts none of this.
"""

from __future__ import annotations

from .errors import DataDirLocked, EmbeddedStartError
from .lock import DataDirLock
from .object_store import EmbeddedObjectStore
from .postgres import EmbeddedPostgres
from .supervisor import EmbeddedParts

__all__ = [
    "DataDirLock",
    "DataDirLocked",
    "EmbeddedObjectStore",
    "EmbeddedParts",
    "EmbeddedPostgres",
    "EmbeddedStartError",
]
