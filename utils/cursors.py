"""Opaque keyset cursors: where a page ended, bound to the filters that it was asked with.

The tag is an HMAC: nobody makes a cursor, or uses one with other filters or as somebody else (services.access.cursors).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from utils.exceptions import InvalidRequest

RowId = TypeVar("RowId", UUID, str)
MAX_CURSOR_CHARS = 500
_TAG_BYTES = 16


def _tag(payload: bytes, filters: Any, key: bytes) -> bytes:
    bound = json.dumps([type(filters).__name__, asdict(filters)], sort_keys=True, default=str).encode()
    message = len(bound).to_bytes(4, "big") + bound + payload
    return hmac.digest(key, message, "sha256")[:_TAG_BYTES]


def encode_cursor(at: datetime, row_id: UUID | str, filters: Any, key: bytes) -> str:
    """A cursor after the row (at, row_id) of a list with these filters (a dataclass)."""
    payload = json.dumps([at.isoformat(), str(row_id)]).encode()
    return base64.urlsafe_b64encode(_tag(payload, filters, key) + payload).decode().rstrip("=")


def decode_key(cursor: str, filters: Any, kind: type[RowId], key: bytes) -> tuple[datetime, RowId]:
    """(time, id) of the last row seen. Raises InvalidRequest for a cursor that is not one of this list."""
    bad = InvalidRequest.of("cursor", "is not a cursor of this list with these filters", location="query", code="cursor")
    if len(cursor) > MAX_CURSOR_CHARS:
        raise bad
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        tag, payload = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
        if not hmac.compare_digest(tag, _tag(payload, filters, key)):
            raise bad
        at, row_id = json.loads(payload)
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise bad
        return moment, kind(row_id)
    except (ValueError, TypeError, AttributeError, binascii.Error) as error:
        raise bad from error
