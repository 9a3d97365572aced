"""Migrations: they make what the models say, go both ways, and bear any number of processes and any death."""

from __future__ import annotations

import asyncio
import re
import secrets
import subprocess
import sys
import time
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from config import DbSettings, database_url
from models.entities import Base, Frame
from repositories.migrations import functions
from repositories.migrations.run import LOCK_KEY, downgrade, upgrade
from tests.conftest import ROOT, Backends, clean_environment, make_database

# Everything of the schema that PostgreSQL can describe itself, one line each.
_DESCRIBE = """
SELECT 'column ' || c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
       || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END || ' ' || a.attidentity::text || a.attgenerated::text || ' '
       || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
       LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (c.oid, a.attnum)
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'constraint ' || conrelid::regclass::text || ' ' || conname || ' ' || pg_get_constraintdef(oid)
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
UNION ALL
SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'function ' || pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL
SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'other ' || relkind::text || ' ' || relname FROM pg_class
 WHERE relnamespace = 'public'::regnamespace AND relkind NOT IN ('r', 'i')
UNION ALL
SELECT 'type ' || typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typrelid = 0 AND typelem = 0
"""


_SCRIPTS = ScriptDirectory(str(ROOT / "repositories" / "migrations"))
HEAD = _SCRIPTS.get_current_head()
REVISIONS = [script.revision for script in _SCRIPTS.walk_revisions()][::-1]  # in the order in which they are made


async def fresh(backends: Backends) -> DbSettings:
    return await make_database(backends.db, f"migrate_{secrets.token_hex(5)}")


async def connect(db: DbSettings) -> Any:
    return await asyncpg.connect(
        host=db.HOST, port=db.PORT, user=db.USER, password=db.PASSWORD.get_secret_value() or None, database=db.NAME
    )


async def describe(db: DbSettings) -> set[str]:
    connection = await connect(db)
    try:
        return {row[0] for row in await connection.fetch(_DESCRIBE)}
    finally:
        await connection.close()


def migrate_in_a_process(db: DbSettings) -> subprocess.Popen[bytes]:
    """`upgrade` in a process of its own, by the settings that a service would have."""
    code = "import asyncio; from config import Settings; from repositories.migrations.run import upgrade; "
    code += "asyncio.run(upgrade(Settings(_env_file=None).DB))"
    environment = {
        **clean_environment(), "DB__HOST": db.HOST, "DB__PORT": str(db.PORT), "DB__NAME": db.NAME, "DB__USER": db.USER,
        "DB__PASSWORD": db.PASSWORD.get_secret_value(),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


async def ended(process: subprocess.Popen[bytes]) -> None:
    output, _ = await asyncio.to_thread(process.communicate, timeout=40)
    assert process.returncode == 0, output.decode()


async def test_models_and_migrations_agree(newest: DbSettings) -> None:
    engine = create_async_engine(database_url(newest))

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, Base.metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_migrations_make_exactly_what_the_models_would(backends: Backends, newest: DbSettings) -> None:
    """Alembic does not see check constraints, generated columns or where-clauses of indexes: PostgreSQL does."""
    made = await fresh(backends)
    engine = create_async_engine(database_url(made))
    async with engine.begin() as connection:
        for statement in functions.statements("slot_count"):  # a generated column needs it
            await connection.exec_driver_sql(statement)
        await connection.run_sync(Base.metadata.create_all)
        for name in functions.names():
            for statement in functions.statements(name):
                await connection.exec_driver_sql(statement)
    await engine.dispose()
    by_migration = {line for line in await describe(newest) if "alembic_version" not in line}
    by_models = await describe(made)
    assert by_migration - by_models == set()
    assert by_models - by_migration == set()
    assert len(by_models) > 150


async def functions_and_triggers(db: DbSettings) -> dict[str, str]:
    """All functions and triggers of the database as PostgreSQL describes them, by name."""
    connection = await connect(db)
    try:
        rows = await connection.fetch("""
            SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid) FROM pg_proc p
             WHERE p.pronamespace = 'public'::regnamespace
            UNION ALL
            SELECT tgrelid::regclass::text || '.' || tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
        """)
    finally:
        await connection.close()
    return {row[0]: row[1] for row in rows}


async def only_the_files(db: DbSettings) -> dict[str, str]:
    """Functions and triggers as the files alone make them, in a migrated database from which all were dropped."""
    await upgrade(db)
    connection = await connect(db)
    try:
        drops = await connection.fetch(
            "SELECT format('DROP FUNCTION %s CASCADE', oid::regprocedure) FROM pg_proc "
            "WHERE pronamespace = 'public'::regnamespace AND proname <> 'slot_count'"
        )
        for (drop,) in drops:
            await connection.execute(drop)
        for name in functions.names():
            for statement in functions.statements(name):
                await connection.execute(statement)
    finally:
        await connection.close()
    return await functions_and_triggers(db)


async def test_the_database_has_exactly_the_functions_of_the_files(backends: Backends, newest: DbSettings) -> None:
    found, wanted = await functions_and_triggers(newest), await only_the_files(await fresh(backends))
    assert found == wanted
    assert {name.partition("(")[0] for name in found if "(" in name} == set(functions.names())
    assert sum("." in name for name in found) == 17  # triggers


def test_the_one_insert_of_a_frame_names_every_column() -> None:
    """But those that say what becomes of a stored frame later."""
    text = functions.statements("insert_frame")[0]
    listed = re.search(r"INSERT INTO frames \(([^)]*)\)", text)
    assert listed is not None
    columns = {column.name for column in Frame.__table__.columns} - {"state", "held_at", "hold_reason"}
    assert {name.strip() for name in listed[1].split(",")} == columns


# Functions with the signatures, or for the columns, of older versions, and the revision that replaced the last of those.
_OLD_FUNCTIONS = {
    "0007": """CREATE OR REPLACE FUNCTION record_slots(request uuid, new_frames jsonb, drops jsonb, due int)
    RETURNS TABLE (sequence int, outcome text, storage_path text) LANGUAGE plpgsql AS $$ BEGIN RETURN; END $$""",
    "0003": """CREATE OR REPLACE FUNCTION settle_slots(request uuid, reason text, due int) RETURNS int
    LANGUAGE plpgsql AS $$ BEGIN RETURN 0; END $$""",
    "0026": """CREATE OR REPLACE FUNCTION report_frame_stored() RETURNS trigger
    LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$""",
}
_OLD_ROWS = (
    "INSERT INTO camera_configurations (camera_id, rtsp_url) VALUES ('gate', 'enc1:k:1')",
    """INSERT INTO ingestion_requests (id, camera_id, source_type, capture_mode, status, expected, stored, dropped_spooled)
    VALUES (gen_random_uuid(), 'gate', 'rtsp', 'continuous', 'in_progress', 4, 1, '{[1,3)}')""",
    "INSERT INTO capture_leases (request_id, camera_id) SELECT id, camera_id FROM ingestion_requests",
    """INSERT INTO frames (id, request_id, camera_id, source_type, sequence, storage_path, capture_timestamp,
        timestamp_source, width, height, size_bytes, format, content_type, sha256, meta)
    SELECT gen_random_uuid(), id, camera_id, 'rtsp', 0, 'frames/a', now(), 'rtcp', 4, 3, 500, 'jpg', 'image/jpeg',
        repeat('a', 64), '{"integrity": "unknown"}' FROM ingestion_requests""",
    "INSERT INTO object_keys (key, state) VALUES ('frames/a', 'live')",
    """INSERT INTO capture_gaps (id, request_id, from_at, reason)
    SELECT gen_random_uuid(), id, now(), 'x' FROM ingestion_requests""",
)


class Ladder:
    """Databases without rows of each revision, rung by rung: the next one is a step away from the one before."""

    def __init__(self, backends: Backends, top: DbSettings) -> None:
        self.backends, self.base, self.at = backends, top, len(REVISIONS)

    async def at_revision(self, revision: str) -> DbSettings:
        if self.at > (wanted := REVISIONS.index(revision)):
            self.base = await fresh(self.backends)
        await upgrade(self.base, revision)
        self.at = wanted
        return await make_database(self.backends.db, f"migrate_{secrets.token_hex(5)}", self.base.NAME)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def newest(backends: Backends) -> DbSettings:
    db = await fresh(backends)
    await upgrade(db)
    return db


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ladder(backends: Backends, newest: DbSettings) -> Ladder:
    return Ladder(backends, newest)


@pytest.mark.parametrize("revision", REVISIONS)
async def test_a_database_of_any_revision_with_rows_comes_up_to_date(
    ladder: Ladder, newest: DbSettings, revision: str
) -> None:
    db = await ladder.at_revision(revision)
    connection = await connect(db)
    for replaced_by, statement in _OLD_FUNCTIONS.items():
        if REVISIONS.index(revision) < REVISIONS.index(replaced_by):
            await connection.execute(statement)
    for statement in _OLD_ROWS:
        await connection.execute(statement)
    await upgrade(db)
    assert await describe(db) == await describe(newest)
    row = await connection.fetchrow("SELECT id, in_flight, stored, idle_slots::text AS idle FROM ingestion_requests")
    assert (row["in_flight"], row["stored"], row["idle"]) == (1, 1, "{}")
    usage = "SELECT u.bytes + coalesce((SELECT sum(c.bytes) FROM storage_changes c), 0) FROM storage_usage u"
    assert await connection.fetchval(usage) == 500
    told = "verified" if REVISIONS.index(revision) >= REVISIONS.index("0028") else "unknown"  # from its meta, where it was
    assert await connection.fetchval("SELECT integrity FROM frames") == told
    # The ledger goes on: the open slot is settled by today's function, and reported by today's triggers.
    assert await connection.fetchval("SELECT settle_slots($1, 'lease_lost', 4)", row["id"]) == 1
    await connection.execute("UPDATE ingestion_requests SET status = 'completed', completed_at = now()")
    sent = "SELECT count(*) FROM outbox_pending WHERE event ->> 'type' = 'request.completed'"
    assert await connection.fetchval(sent) == 1
    await connection.close()


async def test_down_and_up_again(backends: Backends) -> None:
    db = await fresh(backends)
    empty = await describe(db)
    await upgrade(db)
    whole = await describe(db)
    await upgrade(db)  # nothing to do
    assert await describe(db) == whole
    await downgrade(db, "base")
    assert {line for line in await describe(db) if "alembic_version" not in line} == empty
    await upgrade(db)
    assert await describe(db) == whole


async def test_many_start_at_once_and_one_migrates(backends: Backends) -> None:
    db = await fresh(backends)
    processes = [migrate_in_a_process(db) for _ in range(2)]
    await asyncio.gather(*(upgrade(db) for _ in range(6)), *(ended(process) for process in processes))
    connection = await connect(db)
    assert [row[0] for row in await connection.fetch("SELECT version_num FROM alembic_version")] == [HEAD]
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1"
    assert await connection.fetchval(held, LOCK_KEY) == 0
    await connection.close()


async def test_killed_in_mid_migration_leaves_nothing_half_done(backends: Backends) -> None:
    db = await fresh(backends)
    before = await describe(db)
    blocker = await connect(db)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("CREATE TABLE frames (x int)")  # the migration comes as far as its own `frames` and waits
    process = migrate_in_a_process(db)
    watcher = await connect(db)
    waiting = "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'"
    waiting += " AND query LIKE '%CREATE TABLE frames%'"
    deadline = time.monotonic() + 30
    while (backend := await watcher.fetchval(waiting, db.NAME)) is None:
        assert process.poll() is None, process.communicate()[0].decode()
        assert time.monotonic() < deadline, "the migration did not get that far"
        await asyncio.sleep(0.02)
    process.kill()
    await asyncio.to_thread(process.wait, 10)
    second = asyncio.create_task(upgrade(db))  # the next one waits for the lock that the dead one still holds
    await asyncio.sleep(0.3)
    assert not second.done()
    assert await describe(db) == before
    await transaction.rollback()
    async with asyncio.timeout(20):
        await second
    assert await watcher.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", backend) == 0
    assert await watcher.fetchval("SELECT version_num FROM alembic_version") == HEAD
    await blocker.close()
    await watcher.close()


async def test_a_migration_that_cannot_reach_the_database_says_so(backends: Backends) -> None:
    nowhere = backends.db.model_copy(update={"HOST": "127.0.0.1", "PORT": 1, "CONNECT_TIMEOUT": 1.0})
    with pytest.raises(OSError):
        await upgrade(nowhere)
