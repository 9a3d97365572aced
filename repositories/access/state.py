"""The one row of access control: a number that every change of a key or session raises, and the cursors' key."""

from __future__ import annotations

from dataclasses import dataclass

from models.entities import AccessState
from repositories.base import Repository
from repositories.sql import sql

CHANNEL = "trackshift_access"  # NOTIFY at every change (migration 0010)


@dataclass(frozen=True, slots=True)
class AccessVersion:
    """`version` rises with every change of a key or a browser session."""

    version: int
    cursor_key: bytes


class AccessStateRepository(Repository[AccessState]):
    entity = AccessState

    async def read(self) -> AccessVersion:
        """One statement."""
        row = (await self.session.execute(sql("SELECT version, cursor_key FROM access_state WHERE id = 1"))).one()
        return AccessVersion(int(row.version), bytes(row.cursor_key))
