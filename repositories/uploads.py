"""Uploads as they are stored: one statement, and its rows as committed (functions/store_upload.sql)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from models.access import audit_entry
from models.entities import Frame, IngestionRequest
from models.entities.requests import LedgerCounts
from models.values import FrameRecord, Rejected
from repositories.ledger import frame_json, multirange
from repositories.reader import Reader
from repositories.sql import sql
from utils.exceptions import KeysCondemned

_CONDEMNED = "TS001"  # SQLSTATE
_REQUEST = [column.name for column in IngestionRequest.__table__.columns]
_FRAME = [column.name for column in Frame.__table__.columns]
_COLUMNS = ", ".join(
    [*(f"(s.req).{name} AS r_{name}" for name in _REQUEST), *(f"(s.frame).{name} AS f_{name}" for name in _FRAME)]
)
_STORE = (
    f"SELECT {_COLUMNS} FROM "  # noqa: S608 - names of our own
    "store_upload($1, $2, $3::jsonb, $4::jsonb, $5::text::int4multirange, $6::jsonb, $7::jsonb) AS s"
)
_STORE_ONLY = (
    "SELECT 1 FROM store_upload(CAST(:id AS uuid), CAST(:camera AS text), CAST(:meta AS jsonb), CAST(:rejected AS jsonb), "
    "CAST(CAST(:slots AS text) AS int4multirange), CAST(:frames AS jsonb), CAST(:audited AS jsonb)) LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Upload:
    """A finished upload, to be stored."""

    request_id: UUID
    camera_id: str
    meta: dict[str, Any]
    frames: Sequence[FrameRecord]
    rejected: Sequence[Rejected]


class RowPart:
    """One entity's columns in a row that holds two."""

    __slots__ = ("_prefix", "_row")

    def __init__(self, row: asyncpg.Record, prefix: str) -> None:
        self._row, self._prefix = row, prefix

    def __getattr__(self, name: str) -> Any:
        try:
            return self._row[self._prefix + name]
        except KeyError:
            raise AttributeError(name) from None


class StoredRequest(RowPart, LedgerCounts):
    """The row of ingestion_requests."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class StoredUpload:
    """An upload's rows, as committed; its stored frames by sequence."""

    request: StoredRequest
    frames: Sequence[RowPart]


def _values(upload: Upload, audited: str | None) -> tuple[Any, ...]:
    """The function's arguments."""
    entry = None if audited is None else audit_entry(audited, str(upload.request_id))
    return (
        upload.request_id, upload.camera_id, json.dumps(upload.meta),
        json.dumps([item.to_json() for item in upload.rejected]), multirange(item.index for item in upload.rejected),
        json.dumps([frame_json(frame) for frame in upload.frames]), None if entry is None else json.dumps(entry),
    )  # fmt: skip


def _condemned(error: Any) -> KeysCondemned:
    return KeysCondemned(frozenset(json.loads(error.detail or "[]")))


async def store(reader: Reader, upload: Upload, audited: str) -> StoredUpload:
    """Stores it, with an audit row of that name. Idempotent (docs/rules.md, rule 4). Raises KeysCondemned, with nothing
    stored; DatabaseUnavailable, after which the outcome is unknown."""
    values = _values(upload, audited)

    async def work(connection: asyncpg.Connection) -> Sequence[asyncpg.Record]:
        found: Sequence[asyncpg.Record] = await connection.fetch(_STORE, *values)
        return found

    try:
        rows = await reader.write(work)
    except asyncpg.PostgresError as error:
        if error.sqlstate != _CONDEMNED:
            raise
        raise _condemned(error) from None
    return StoredUpload(StoredRequest(rows[0], "r_"), [RowPart(row, "f_") for row in rows if row["f_id"] is not None])


async def store_within(session: AsyncSession, upload: Upload) -> None:
    """Stores it in a transaction that does more. Raises KeysCondemned: nothing of the transaction may be committed."""
    names = ("id", "camera", "meta", "rejected", "slots", "frames", "audited")
    try:
        await session.execute(sql(_STORE_ONLY), dict(zip(names, _values(upload, None), strict=True)))
    except DBAPIError as error:
        cause = error.orig.__cause__ if error.orig is not None else None
        if getattr(cause, "sqlstate", None) != _CONDEMNED:
            raise
        raise _condemned(cause) from None
