"""Cursors of lists: each belongs to the principal that it was given to, by an HMAC with a key from the database."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from models.access import Principal
from utils.cursors import decode_key, encode_cursor

RowId = TypeVar("RowId", UUID, str)


class Cursors:
    """Every process on one database has the same key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encode(self, at: datetime, row_id: UUID | str, filters: Any, who: Principal) -> str:
        """A cursor after the row (at, row_id) of `who`'s list with these filters (a dataclass)."""
        return encode_cursor(at, row_id, filters, self._of(who))

    def decode(self, cursor: str | None, filters: Any, who: Principal, kind: type[RowId]) -> tuple[datetime, RowId] | None:
        """(time, id) of the last row seen; None without a cursor. Raises InvalidRequest for another's, or a forged one."""
        return decode_key(cursor, filters, kind, self._of(who)) if cursor is not None else None

    def _of(self, who: Principal) -> bytes:
        return hashlib.blake2b(who.owner.encode(), key=self._key[:64], digest_size=32).digest()
