"""All rows of a database as COPY text, out and in: what `backup` and `restore` move.

COPY over the service's own driver, not pg_dump: the container has no PostgreSQL programs, pg_dump must be as new as the
server, and a dump carries the schema, which the migrations own. The text format is the same in every version from 15 on.

Tables, columns and their order come from the catalogue, so that a new table is copied without being listed here. Roles
and grants are not copied. Belongs to one event loop. Raises DatabaseUnavailable.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from config import DbSettings
from models.entities import SEALED_PREFIX
from repositories.connections import connect
from repositories.engine import is_unavailable
from repositories.migrations.steps import TABLE
from utils.exceptions import DatabaseUnavailable

VERSION_TABLE = "alembic_version"
OWN = frozenset({VERSION_TABLE, TABLE})  # the migrations write them
# Tables into which the migrations, or a first start, put a row: they do not make a database one that is in use.
SEEDED = frozenset(
    {*OWN, "access_state", "event_log", "retention_policy", "secret_canaries", "sweeper_state", "storage_usage"}
)
SERVICE_SESSIONS = "trackshift-leases"  # application_name of a session that every running service keeps

Write = Callable[[bytes], Awaitable[None]]

# Unlogged ones are left out: what a process says of itself is of the process that runs.
_TABLES = """
SELECT c.relname AS name, array_agg(a.attname::text ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.relnamespace = current_schema()::regnamespace
GROUP BY c.oid, c.relname ORDER BY c.relname
"""
_REFERENCES = """
SELECT conrelid::regclass::text AS referring, confrelid::regclass::text AS referred FROM pg_constraint
WHERE contype = 'f' AND connamespace = current_schema()::regnamespace AND conrelid <> confrelid
"""
_SEQUENCES = "SELECT sequencename AS name, last_value FROM pg_sequences WHERE schemaname = current_schema()"
_KEYS = f"""
SELECT split_part(rtsp_url, ':', 2) AS key_id, count(*) AS urls FROM (
    SELECT rtsp_url FROM camera_configurations
    UNION ALL SELECT rtsp_url FROM ingestion_requests WHERE status IN ('pending', 'in_progress')
) AS sealed WHERE rtsp_url LIKE '{SEALED_PREFIX}%' GROUP BY 1
"""  # noqa: S608 - a constant
_STORED = """
SELECT id, storage_path, size_bytes, sha256, content_type FROM frames WHERE state = 'stored' ORDER BY storage_path
"""
_BEGIN_DELETES = """
WITH begun AS (
    UPDATE frames f SET state = 'deleting', held_at = NULL, hold_reason = NULL FROM gone
    WHERE f.id = gone.id AND f.state = 'stored' RETURNING f.request_id
), per_request AS (SELECT request_id, count(*) AS n FROM begun GROUP BY request_id)
UPDATE ingestion_requests r SET deleted = r.deleted + n, updated_at = now() FROM per_request p WHERE r.id = p.request_id
"""


class Table(NamedTuple):
    name: str
    columns: list[str]  # without generated ones


@dataclass(frozen=True, slots=True)
class Overview:
    """What a database is, before anything is read from it or written to it."""

    revision: str | None  # of the schema; None without one
    filled: list[str]  # tables with rows, but for SEEDED
    log_id: UUID | None
    services: int  # running services that are connected


class Snapshot:
    """The database at one moment: every read sees the same rows, whatever is written meanwhile."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def tables(self) -> list[Table]:
        """All tables but OWN; a table comes after those that it refers to."""
        return [table for table in await _tables(self._connection) if table.name not in OWN]

    async def sequences(self) -> dict[str, int]:
        """The last number that each sequence gave out."""
        rows = await self._connection.fetch(_SEQUENCES)
        return {row["name"]: row["last_value"] for row in rows if row["last_value"] is not None}

    async def copy(self, table: Table, write: Write) -> int:
        """Gives the table's rows to `write`; returns how many."""
        status = await self._connection.copy_from_table(table.name, columns=table.columns, output=write, format="text")
        return int(status.split()[1])

    async def copy_stored_frames(self, write: Write) -> int:
        """Gives id, key, bytes, SHA-256, content type of each stored frame to `write`, by key; returns how many."""
        status = await self._connection.copy_from_query(_STORED, output=write, format="text")
        return int(status.split()[1])

    async def stored_bytes(self) -> int:
        return int(await self._connection.fetchval("SELECT coalesce(sum(size_bytes), 0) FROM frames WHERE state = 'stored'"))

    async def key_ids(self) -> dict[str, int]:
        """The keys that cameras and unfinished captures need, and how many URLs each of them opens."""
        return {row["key_id"]: row["urls"] for row in await self._connection.fetch(_KEYS)}

    async def server_version(self) -> str:
        return str(await self._connection.fetchval("SHOW server_version"))


async def overview_of(db: DbSettings) -> Overview:
    """What is in the database now."""
    async with _connected(db) as connection, connection.transaction():
        tables = {table.name for table in await _tables(connection)}
        filled = [
            name for name in sorted(tables - SEEDED)
            if await connection.fetchval(f'SELECT EXISTS (SELECT 1 FROM "{name}")')  # noqa: S608 - from the catalogue
        ]  # fmt: skip
        revision = await connection.fetchval(f"SELECT version_num FROM {VERSION_TABLE}") if VERSION_TABLE in tables else None  # noqa: S608
        log_id = await connection.fetchval("SELECT log_id FROM event_log") if "event_log" in tables else None
        services = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1",
            SERVICE_SESSIONS,
        )
        return Overview(revision, filled, uuid.UUID(str(log_id)) if log_id else None, services)


@asynccontextmanager
async def snapshot(db: DbSettings) -> AsyncIterator[Snapshot]:
    """A snapshot for the block. Nothing waits for it; vacuum keeps what it sees."""
    async with (
        _connected(db) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        yield Snapshot(connection)


async def fill(
    db: DbSettings,
    tables: Iterable[tuple[Table, AsyncIterator[bytes]]],
    sequences: dict[str, int],
    *,
    log_id: UUID,
    gone: AsyncIterator[Sequence[UUID]],
) -> None:
    """Replaces all rows by those given, in one transaction; triggers do not see them. The event log is `log_id` then.

    `gone`: frames whose objects are deleted; their deletes count as begun, and their events are written. The schema must
    be the one that the rows come from. Raises asyncpg's errors for rows that do not fit it.
    """
    async with _connected(db) as connection, connection.transaction():
        names = [_quoted(table.name) for table in await _tables(connection) if table.name not in OWN]
        for name in names:
            await connection.execute(f"ALTER TABLE {name} DISABLE TRIGGER USER")
        await connection.execute(f"TRUNCATE {', '.join(names)}")
        for table, rows in tables:
            await connection.copy_to_table(table.name, source=rows, columns=table.columns, format="text")
        for name in names:
            await connection.execute(f"ALTER TABLE {name} ENABLE TRIGGER USER")
        for name, last in sequences.items():
            await connection.execute("SELECT setval($1::text::regclass, $2)", _quoted(name), last)
        await connection.execute("CREATE TEMPORARY TABLE gone (id uuid PRIMARY KEY) ON COMMIT DROP")
        async for ids in gone:
            await connection.copy_records_to_table("gone", records=[(item,) for item in ids])
        await connection.execute(_BEGIN_DELETES)
        changed = await connection.execute("UPDATE event_log SET log_id = $1", log_id)
        assert changed == "UPDATE 1", changed


async def analyze(db: DbSettings) -> None:
    """Statistics for the planner, which knows nothing of rows that have just come."""
    async with _connected(db) as connection, connection.transaction():
        await connection.execute("ANALYZE")


async def _tables(connection: Any) -> list[Table]:
    found = {row["name"]: Table(row["name"], list(row["columns"])) for row in await connection.fetch(_TABLES)}
    order: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(found, ()))
    for row in await connection.fetch(_REFERENCES):
        order.add(row["referring"].strip('"'), row["referred"].strip('"'))
    return [found[name] for name in order.static_order() if name in found]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@asynccontextmanager
async def _connected(db: DbSettings) -> AsyncIterator[Any]:
    """A connection of its own: a COPY of a large table is no runaway statement. Everything on it is in a transaction."""
    values = {
        "timezone": "UTC", "datestyle": "ISO", "client_encoding": "UTF8", "statement_timeout": "0", "lock_timeout": "10000",
        "idle_in_transaction_session_timeout": "0",
    }  # fmt: skip
    try:
        connection = await connect(db.direct, "trackshift-copy", values)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:  # a wrong name or password among them
        raise _unavailable(error) from error
    try:
        yield connection
    except Exception as error:
        if not is_unavailable(error):
            raise
        raise _unavailable(error) from error
    finally:
        connection.terminate()  # nothing is left to say: transactions have ended


def _unavailable(error: Exception) -> DatabaseUnavailable:
    return DatabaseUnavailable(f"PostgreSQL (DB__*) cannot be used: {type(error).__name__}.")
