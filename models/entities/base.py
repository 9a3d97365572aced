"""What all tables share: naming of constraints, column types, small helpers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import DateTime, Float, Index, MetaData, Text, Uuid, func, text
from sqlalchemy.dialects.postgresql import INT4MULTIRANGE, JSONB, Range
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Json = dict[str, Any]
SlotRanges = list[Range[int]]
SEALED_PREFIX = "enc1:"  # how encrypted texts begin (utils.secret_box)
PLAIN_URL = f"rtsp_url NOT LIKE '{SEALED_PREFIX}%'"  # rows from before encryption
LONGEST_LEASE = "300"  # seconds, the most that the settings allow: of rows that an earlier version wrote
META_FILTERS = ("subject", "session", "phase")  # keys of `meta` that lists are filtered by
META_INDEXED = 100  # characters of such a value that are in the index
OBJECT_KEY = Text(collation="C")  # object keys sort as the store lists them: byte by byte


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        UUID: Uuid(as_uuid=True),
        Json: JSONB,
        list[Json]: JSONB,
        str: Text,
        float: Float(53),
        SlotRanges: INT4MULTIRANGE,
    }


def one_of(column: str, values: Iterable[str]) -> str:
    """A check that the column has one of the values."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


def meta_indexes(table: str, at: str, where: str | None = None) -> list[Index]:
    """An index for each key of `meta` that lists are filtered by, in the order of the time `at`, of rows that have the key.

    Over the text's head: a whole one may be longer than an index holds, and its row could not be stored.
    """
    made = []
    for key in META_FILTERS:
        head = f"left(meta ->> '{key}', {META_INDEXED})"
        there = f"{head} IS NOT NULL" + (f" AND {where}" if where else "")
        made.append(Index(f"ix_{table}_meta_{key}", text(head), at, "id", postgresql_where=text(there)))
    return made


def created_now() -> Mapped[datetime]:
    """A time that the database sets when the row is inserted."""
    return mapped_column(server_default=func.now())


def slot_ranges() -> Mapped[SlotRanges]:
    """A multirange of slots, empty at first."""
    return mapped_column(server_default=text("'{}'::int4multirange"))
