"""One spooled frame as a file: self-describing, and whole or not at all.

    8 bytes   magic and version
    4 bytes   length of the header, big-endian
    32 bytes  SHA-256 of the header
    header    JSON: the frame's record, the grid it was numbered on, the epoch, when it was spooled
    bytes     the picture; the header has their number and their SHA-256

Pure. A file that was cut or changed anywhere, or that goes on after its end, is DamagedRecord.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from models.values import FrameRecord, Integrity, SourceType, TimestampSource

MAGIC = b"TSSPOOL\x01"
_HEAD = struct.Struct(">8sI32s")
_KNOWN = frozenset(field.name for field in fields(FrameRecord))
HEAD_BYTES = _HEAD.size
MAX_HEADER = 1_048_576  # bytes; a client's `meta` is the largest part, and is much smaller


class DamagedRecord(Exception):
    """The file is not a whole record. The text names what is wrong, nothing of the content."""


@dataclass(frozen=True, slots=True)
class SpoolRecord:
    """What is known of a spooled picture. Its frame's `storage_path` is a former attempt's: never used again."""

    frame: FrameRecord
    grid_start: datetime  # of the grid that `frame.sequence` counts on
    fps: float  # slots a second of that grid
    epoch: int  # of the lease under which it was captured: for people, evidence is welcome from any
    spooled_at: datetime


def encode(record: SpoolRecord, data: bytes) -> bytes:
    """The head and the header; the file is this and then `data`."""
    frame = asdict(record.frame)
    for name in ("frame_id", "request_id"):
        frame[name] = str(frame[name])
    for name in ("timestamp", "camera_timestamp"):
        frame[name] = frame[name].isoformat() if frame[name] is not None else None
    header = json.dumps(
        {
            "frame": frame, "grid_start": record.grid_start.isoformat(), "fps": record.fps, "epoch": record.epoch,
            "spooled_at": record.spooled_at.isoformat(), "bytes": len(data),
        },
        separators=(",", ":"),
    ).encode()  # fmt: skip
    return _HEAD.pack(MAGIC, len(header), hashlib.sha256(header).digest()) + header


def header_length(head: bytes) -> int:
    """How many bytes of header follow the first HEAD_BYTES. Raises DamagedRecord."""
    if len(head) < HEAD_BYTES:
        raise DamagedRecord("cut in the head")
    magic, length, _ = _HEAD.unpack(head[:HEAD_BYTES])
    if magic != MAGIC:
        raise DamagedRecord("not a record of this version")
    if not 0 < length <= MAX_HEADER:
        raise DamagedRecord("a header of impossible length")
    return int(length)


def decode_header(start: bytes, file_size: int) -> SpoolRecord:
    """The record of a file that begins with `start` (head and header at least) and is `file_size` bytes long.

    The picture's own bytes are not checked. Raises DamagedRecord.
    """
    length = header_length(start)
    header = start[HEAD_BYTES : HEAD_BYTES + length]
    if len(header) < length:
        raise DamagedRecord("cut in the header")
    if hashlib.sha256(header).digest() != _HEAD.unpack(start[:HEAD_BYTES])[2]:
        raise DamagedRecord("the header is not what was written")
    try:
        found = json.loads(header)
        record = _record(found)
        size = int(found["bytes"])
    except (ValueError, KeyError, TypeError) as error:  # written by another version
        raise DamagedRecord("a header that this version cannot read") from error
    if file_size != HEAD_BYTES + length + size:
        raise DamagedRecord("not as long as its header says")
    return record


def decode(content: bytes) -> tuple[SpoolRecord, bytes]:
    """A whole file: the record and the picture's bytes. Raises DamagedRecord."""
    record = decode_header(content, len(content))
    data = content[HEAD_BYTES + header_length(content) :]
    if hashlib.sha256(data).hexdigest() != record.frame.sha256:
        raise DamagedRecord("the picture's bytes are not what was written")
    return record, data


def _record(found: dict[str, Any]) -> SpoolRecord:
    """Fields of a newer version are left out: without them the frame is stored, as damaged it would be lost."""
    frame = {name: value for name, value in found["frame"].items() if name in _KNOWN}
    for name in ("frame_id", "request_id"):
        frame[name] = UUID(frame[name])
    for name in ("timestamp", "camera_timestamp"):
        frame[name] = datetime.fromisoformat(frame[name]) if frame[name] is not None else None
    if "integrity" in frame:  # not in records of before there was such a field
        frame["integrity"] = Integrity(frame["integrity"])
    elif frame["meta"].get("integrity") == Integrity.UNKNOWN:
        frame["integrity"] = Integrity.UNKNOWN
    frame["source_type"] = SourceType(frame["source_type"])
    frame["timestamp_source"] = TimestampSource(frame["timestamp_source"])
    return SpoolRecord(
        FrameRecord(**frame),
        datetime.fromisoformat(found["grid_start"]),
        float(found["fps"]),
        int(found["epoch"]),
        datetime.fromisoformat(found["spooled_at"]),
    )
