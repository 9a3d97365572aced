"""Time-ordered identifiers (RFC 9562)."""

from __future__ import annotations

import hashlib
import os
import time
from datetime import datetime
from uuid import UUID


def _with_version(milliseconds: int, tail: bytes, version: int) -> UUID:
    value = bytearray(milliseconds.to_bytes(6, "big") + tail[:10])
    value[6] = (value[6] & 0x0F) | (version << 4)
    value[8] = (value[8] & 0x3F) | 0x80
    return UUID(bytes=bytes(value))


def new_id(now_ms: int | None = None) -> UUID:
    """A UUIDv7 (RFC 9562, 5.7): Unix milliseconds, then 74 random bits."""
    return _with_version(time.time_ns() // 1_000_000 if now_ms is None else now_ms, os.urandom(10), 7)


def frame_id(request_id: UUID, sequence: int, slot_time: datetime) -> UUID:
    """The frame's identity: a UUIDv8 (RFC 9562, 5.8) of the slot's milliseconds and a hash of (request, slot).

    The same slot gives the same id in every process and at every retry, so that a second store finds the first.
    """
    digest = hashlib.sha256(request_id.bytes + sequence.to_bytes(8, "big", signed=False)).digest()
    return _with_version(max(0, int(slot_time.timestamp() * 1000)), digest, 8)


def sub_id(parent: UUID, index: int) -> UUID:
    """The id of one of several things made for `parent`, a UUIDv7: its milliseconds and a hash of (parent, index)."""
    digest = hashlib.sha256(parent.bytes + index.to_bytes(8, "big", signed=False) + b"sub").digest()
    return _with_version(int.from_bytes(parent.bytes[:6], "big"), digest, 8)
